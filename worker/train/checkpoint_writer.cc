#include "worker/train/checkpoint_writer.h"

#include <algorithm>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/checkpoint/latest_link.h"
#include "worker/train/pth_writer.h"

namespace muster::train {
namespace fs = std::filesystem;

CheckpointWriter::CheckpointWriter(Options options, OnPublished on_published)
    : options_(std::move(options)), on_published_(std::move(on_published)) {
  std::error_code ignored;
  std::vector<fs::path> parts;
  for (const auto& entry : fs::directory_iterator(options_.folder, ignored)) {
    if (absl::EndsWith(entry.path().filename().string(), ".part")) parts.push_back(entry.path());
  }
  for (const fs::path& part : parts) fs::remove(part, ignored);
  thread_ = std::thread([this] { Run(); });
}

CheckpointWriter::~CheckpointWriter() {
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void CheckpointWriter::Write(std::string file, Snapshot snapshot) {
  const absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &CheckpointWriter::HasRoom));
  job_.emplace(std::move(file), std::move(snapshot));
}

void CheckpointWriter::Flush() {
  const absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &CheckpointWriter::IsIdle));
}

int64_t CheckpointWriter::failures() const {
  const absl::MutexLock lock(&mutex_);
  return failures_;
}

void CheckpointWriter::Run() {
  while (true) {
    std::pair<std::string, Snapshot> job;
    {
      const absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &CheckpointWriter::HasWork));
      if (!job_.has_value()) return;
      job = *std::move(job_);
      job_.reset();
      busy_ = true;
    }
    const absl::Status status = Publish(job.first, job.second);
    if (!status.ok()) {
      base::Log(base::LogSeverity::kWarning, "trainer",
                "a checkpoint could not be written; training goes on",
                {{"file", job.first}, {"error", absl::string_view(status.message())}});
    }
    const absl::MutexLock lock(&mutex_);
    busy_ = false;
    if (!status.ok()) ++failures_;
  }
}

absl::Status CheckpointWriter::Publish(const std::string& file, const Snapshot& snapshot) {
  const fs::path path = options_.folder / file;
  const fs::path part = options_.folder / absl::StrCat(file, ".part");
  v1::Checkpoint description = Describe(snapshot, options_.job, file);
  absl::Status status = WritePth(part, ToValue(snapshot));
  std::error_code error;
  if (status.ok()) {
    description.set_size_bytes(static_cast<int64_t>(fs::file_size(part, error)));
    status = base::PublishFile(part, path);
  }
  if (!status.ok()) {
    fs::remove(part, error);
    return status;
  }
  std::string json;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  if (!google::protobuf::util::MessageToJsonString(description, &json, options).ok()) {
    return absl::InternalError(absl::StrCat(file, ": its description cannot be printed"));
  }
  MUSTER_RETURN_IF_ERROR(
      base::WriteFileAtomically(options_.folder / absl::StrCat(file, ".json"), json));
  MUSTER_RETURN_IF_ERROR(checkpoint::PointLatestAt(options_.folder, file));
  RemoveOld();
  if (on_published_) on_published_(description);
  return absl::OkStatus();
}

void CheckpointWriter::RemoveOld() {
  std::vector<v1::Checkpoint> checkpoints = checkpoint::ListCheckpoints(options_.folder, "trainer");
  // Higher steps of an older generation may be a branch that was given up while this node was away:
  // they must not drive out what is written now.
  std::stable_sort(checkpoints.begin(), checkpoints.end(),
                   [](const v1::Checkpoint& a, const v1::Checkpoint& b) {
                     return a.generation() > b.generation();
                   });
  for (size_t i = static_cast<size_t>(options_.keep_last); i < checkpoints.size(); ++i) {
    const fs::path path = options_.folder / checkpoints[i].file();
    std::error_code ignored;
    // The description first: none may be left without its file.
    fs::remove(absl::StrCat(path.string(), ".json"), ignored);
    fs::remove(path, ignored);
  }
}

}  // namespace muster::train
