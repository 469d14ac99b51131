#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/state_folder.h"

namespace muster::worker {

// Sends ranks' log files to the coordinator, each request on a thread of its own. Thread-safe.
class LogStreamer {
 public:
  // Sends one chunk, waiting for room; false: nobody wants more.
  using Sink = std::function<bool(const v1::LogChunk&)>;

  explicit LogStreamer(const StateFolder& state) : state_(state) {}
  ~LogStreamer() { StopAll(); }

  // Answers with chunks of at most 256 KiB, the last with `end`: at the end of the file, or with
  // follow when the rank has ended and all it wrote is sent. An error comes as one chunk with
  // `end`.
  void Start(const v1::LogRequest& request, Sink sink);
  void Cancel(int64_t request_id);
  // Cancels all and waits for them.
  void StopAll();

 private:
  struct Stream {
    UniqueFd cancelled;  // an eventfd
    bool done = false;
    std::thread thread;
  };

  bool TryStart(const v1::LogRequest& request, const Sink& sink);
  void Run(const v1::LogRequest& request, const Sink& sink, int cancelled_fd) const;
  // Joins the threads that have finished.
  void Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const StateFolder& state_;
  absl::Mutex mutex_;
  std::map<int64_t, std::unique_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
