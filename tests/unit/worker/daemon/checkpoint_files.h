#pragma once

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "muster/v1/checkpoint.pb.h"
#include "tests/support/pth_builder.h"

namespace muster::worker {

// A file with so many bytes of weights that resuming from it would not fail at the first look.
inline std::string PthBytes(int64_t bytes) {
  return testing::PthOf(checkpoint::Value::OfTensor(testing::CountingTensor({bytes / 4 + 1})));
}

inline std::string Description(const v1::Checkpoint& checkpoint) {
  std::string json;
  const auto printed = google::protobuf::util::MessageToJsonString(checkpoint, &json);
  return printed.ok() ? json : "";
}

// Step `step` of generation 1 of jobs/a, as its trainer would leave it in the folder.
inline v1::Checkpoint WriteCheckpoint(const std::filesystem::path& folder, int64_t step,
                                      const std::string& bytes) {
  v1::Checkpoint checkpoint;
  checkpoint.set_job("jobs/a");
  checkpoint.set_generation(1);
  checkpoint.set_step(step);
  checkpoint.set_digest(absl::StrCat("digest-", step));
  checkpoint.set_file(absl::StrCat("step_", step, ".pth"));
  checkpoint.set_size_bytes(static_cast<int64_t>(bytes.size()));
  base::CreateFolders(folder).IgnoreError();
  base::WriteFileAtomically(folder / checkpoint.file(), bytes).IgnoreError();
  base::WriteFileAtomically(folder / absl::StrCat(checkpoint.file(), ".json"),
                            Description(checkpoint))
      .IgnoreError();
  return checkpoint;
}

}  // namespace muster::worker
