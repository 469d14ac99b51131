#include "worker/checkpoint/checkpoint_list.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/pth_reader.h"

namespace muster::checkpoint {
namespace {

namespace fs = std::filesystem;

// The checkpoint that `description` belongs to; NotFound for one of those no longer kept.
absl::StatusOr<v1::Checkpoint> ReadDescription(const fs::path& description, const fs::path& file) {
  const absl::StatusOr<std::string> text = base::ReadFile(description);
  v1::Checkpoint checkpoint;
  google::protobuf::util::JsonParseOptions newer_writers_too;
  newer_writers_too.ignore_unknown_fields = true;
  if (!text.ok() ||
      !google::protobuf::util::JsonStringToMessage(*text, &checkpoint, newer_writers_too).ok()) {
    return absl::InvalidArgumentError("its description is damaged");
  }
  std::error_code error;
  const uintmax_t size = fs::file_size(file, error);
  if (error) return absl::NotFoundError("");
  if (static_cast<int64_t>(size) != checkpoint.size_bytes()) {
    return absl::InvalidArgumentError("it has another size than its description says");
  }
  MUSTER_RETURN_IF_ERROR(CheckPth(file));
  checkpoint.set_file(file.filename().string());
  return checkpoint;
}

}  // namespace

std::vector<v1::Checkpoint> ListCheckpoints(const fs::path& folder, absl::string_view component) {
  std::vector<v1::Checkpoint> checkpoints;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (!absl::EndsWith(entry.path().filename().string(), ".pth.json")) continue;
    fs::path file = entry.path();
    file.replace_extension();
    absl::StatusOr<v1::Checkpoint> checkpoint = ReadDescription(entry.path(), file);
    if (checkpoint.ok()) {
      checkpoints.push_back(*std::move(checkpoint));
    } else if (!absl::IsNotFound(checkpoint.status())) {
      base::Log(
          base::LogSeverity::kWarning, component, "a checkpoint cannot be resumed from",
          {{"file", file.string()}, {"reason", absl::string_view(checkpoint.status().message())}});
    }
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const v1::Checkpoint& a, const v1::Checkpoint& b) {
              return std::make_tuple(a.step(), a.generation(), a.file()) >
                     std::make_tuple(b.step(), b.generation(), b.file());
            });
  return checkpoints;
}

}  // namespace muster::checkpoint
