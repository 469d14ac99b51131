#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "coordinator/core/command.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// One worker's stream, as seen by those who send on it. Thread-safe.
class SessionWriter {
 public:
  virtual ~SessionWriter() = default;
  // In order. With `close` the stream ends after the message. Dropped when it has ended already.
  virtual void Send(v1::CoordinatorMessage message, bool close) = 0;
};

// The open worker streams by number. Thread-safe.
class SessionRegistry {
 public:
  SessionId Add(std::shared_ptr<SessionWriter> session);
  void Remove(SessionId id);
  int size();
  // False when the stream is gone.
  bool Send(SessionId id, v1::CoordinatorMessage message, bool close = false);
  // Tells every worker to come back later, and ends its stream.
  void CloseAll(const std::string& reason);

 private:
  std::shared_ptr<SessionWriter> Find(SessionId id);

  absl::Mutex mutex_;
  SessionId next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<SessionId, std::shared_ptr<SessionWriter>> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
