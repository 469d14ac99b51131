#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "coordinator/service/session_registry.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// Takes what a worker sends of a log. Called on a gRPC thread.
class LogSink {
 public:
  virtual ~LogSink() = default;
  virtual void TakeChunk(const v1::LogChunk& chunk) = 0;
};

// Joins those who read logs with the workers that hold them. Thread-safe.
class LogRelay {
 public:
  explicit LogRelay(SessionRegistry* sessions) : sessions_(sessions) {}

  // Asks the worker; its chunks go to `sink` until one with `end`, or Cancel. A stream that breaks
  // ends with an error chunk. Returns the request's id.
  int64_t Open(SessionId session, const v1::StreamLogsRequest& request,
               std::shared_ptr<LogSink> sink);
  void Cancel(int64_t request_id);

  // From the worker's stream.
  void Deliver(SessionId session, const v1::LogChunk& chunk);
  void SessionEnded(SessionId session);

 private:
  struct Reader {
    SessionId session = 0;
    std::shared_ptr<LogSink> sink;
  };

  SessionRegistry* const sessions_;
  absl::Mutex mutex_;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, Reader> readers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
