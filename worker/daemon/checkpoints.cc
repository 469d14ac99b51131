#include "worker/daemon/checkpoints.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <system_error>
#include <tuple>

#include "absl/strings/match.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "common/base/log.h"

namespace muster::worker {

std::vector<v1::Checkpoint> ListCheckpoints(const std::filesystem::path& output_folder) {
  std::vector<v1::Checkpoint> checkpoints;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(output_folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!absl::EndsWith(name, ".pth.json")) continue;
    std::filesystem::path file = entry.path();
    file.replace_extension();
    const auto leave_out = [&](absl::string_view reason) {
      base::Log(base::LogSeverity::kWarning, "worker", "a checkpoint cannot be resumed from",
                {{"file", file.string()}, {"reason", reason}});
    };
    const absl::StatusOr<std::string> text = base::ReadFile(entry.path());
    v1::Checkpoint checkpoint;
    google::protobuf::util::JsonParseOptions newer_writers_too;
    newer_writers_too.ignore_unknown_fields = true;
    if (!text.ok() ||
        !google::protobuf::util::JsonStringToMessage(*text, &checkpoint, newer_writers_too).ok()) {
      leave_out("its description is damaged");
      continue;
    }
    std::error_code error;
    const uintmax_t size = std::filesystem::file_size(file, error);
    // Without a file it was one of those no longer kept.
    if (error) continue;
    if (static_cast<int64_t>(size) != checkpoint.size_bytes()) {
      leave_out("it has another size than its description says");
      continue;
    }
    checkpoint.set_file(file.filename().string());
    checkpoints.push_back(std::move(checkpoint));
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const v1::Checkpoint& a, const v1::Checkpoint& b) {
              return std::make_tuple(a.step(), a.generation(), a.file()) >
                     std::make_tuple(b.step(), b.generation(), b.file());
            });
  return checkpoints;
}

}  // namespace muster::worker
