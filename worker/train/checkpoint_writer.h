#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#include "muster/v1/checkpoint.pb.h"
#include "worker/train/checkpoint.h"

namespace muster::train {

// Writes checkpoints into a job's output folder from a thread of its own, while training goes on.
// Each is published by write + fsync + rename, then its description (<file>.json), then latest.pth,
// a link to it. A failed write (full disk) leaves the older checkpoints alone, removes what it
// wrote and is logged: training goes on.
class CheckpointWriter {
 public:
  struct Options {
    std::filesystem::path folder;
    std::string job;
    // Newest checkpoints (of the newest generation, then of the highest step) that are kept; the
    // others are removed after a new one is published.
    int keep_last = 3;
  };
  // Called from the writer's thread.
  using OnPublished = std::function<void(const v1::Checkpoint&)>;

  // Removes parts that a killed writer left.
  CheckpointWriter(Options options, OnPublished on_published);
  // Waits for what was handed in.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Takes a snapshot to write as folder/file ("epoch_3.pth"). At most one waits besides the one
  // being written: with a disk that is slower than training, this waits.
  void Write(std::string file, Snapshot snapshot);

  // Returns when everything handed in is written or has failed.
  void Flush();

  // Writes that failed so far.
  int64_t failures() const;

 private:
  void Run();
  absl::Status Publish(const std::string& file, const Snapshot& snapshot);
  void RemoveOld();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return job_.has_value() || stopping_;
  }
  bool HasRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !job_.has_value(); }
  bool IsIdle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !job_.has_value() && !busy_; }

  const Options options_;
  const OnPublished on_published_;

  mutable absl::Mutex mutex_;
  std::optional<std::pair<std::string, Snapshot>> job_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace muster::train
