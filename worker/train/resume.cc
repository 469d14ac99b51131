#include "worker/train/resume.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/checkpoint/pth_reader.h"
#include "worker/train/failure.h"

namespace muster::train {
namespace {

// The checkpoint file's bytes, on the rank that broadcasts.
std::string ReadSource(const ResumeRequest& request, const std::filesystem::path& output) {
  if (!request.holders.empty()) {
    if (!request.file.has_value()) {
      throw TrainingFailure(base::kExitUsage,
                            "--resume-holders names this rank, but --resume-from "
                            "does not name its checkpoint");
    }
    return Require(base::ReadFile(*request.file), base::kExitCheckpointError);
  }
  const std::vector<v1::Checkpoint> checkpoints = checkpoint::ListCheckpoints(output, "trainer");
  if (checkpoints.empty()) return "";
  return Require(base::ReadFile(output / checkpoints.front().file()), base::kExitCheckpointError);
}

}  // namespace

std::optional<Snapshot> ReceiveSnapshot(const ResumeRequest& request,
                                        const std::filesystem::path& output,
                                        dist::Communicator& control) {
  if (!request.newest && request.holders.empty()) return std::nullopt;
  const int root = request.holders.empty()
                       ? 0
                       : *std::min_element(request.holders.begin(), request.holders.end());
  if (root < 0 || root >= control.size()) {
    throw TrainingFailure(base::kExitUsage,
                          absl::StrCat("--resume-holders: there is no rank ", root));
  }
  std::string bytes;
  if (control.rank() == root) bytes = ReadSource(request, output);
  if (control.size() > 1) bytes = control.BroadcastBytes(bytes, root);
  if (bytes.empty()) return std::nullopt;

  const std::string name = request.file.has_value() ? request.file->string()
                                                    : absl::StrCat("rank ", root, "'s checkpoint");
  const checkpoint::Value value =
      Require(checkpoint::ReadPthFrom(bytes, name), base::kExitCheckpointError);
  Snapshot snapshot = Require(FromValue(value, name), base::kExitCheckpointError);
  const TrainingPosition& position = snapshot.position;
  if (!request.holders.empty() &&
      (position.step != request.step || position.generation != request.generation)) {
    throw TrainingFailure(
        base::kExitCheckpointError,
        absl::StrCat(name, " holds step ", position.step, " of generation ", position.generation,
                     ", not step ", request.step, " of generation ", request.generation));
  }
  return snapshot;
}

}  // namespace muster::train
