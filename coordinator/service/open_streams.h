#pragma once

#include <grpcpp/support/status.h>

#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "coordinator/service/access_control.h"

namespace muster::coordinator {

// A call that goes on for long.
class OpenStream {
 public:
  virtual ~OpenStream() = default;
  // Ends the call now, with what waits unsent. Thread-safe.
  virtual void Abort(const grpc::Status& status) = 0;
};

// People's streams that are open, so that none outlives its token. (A node's session looks at its
// credential with each message.) Thread-safe.
class OpenStreams {
 public:
  explicit OpenStreams(const AccessControl& access) : access_(access) {}

  // Watches over it as long as it lives.
  void Add(Caller caller, const std::shared_ptr<OpenStream>& stream);
  // Aborts those whose token is not in force any more: UNAUTHENTICATED, reason TOKEN_REVOKED.
  void EndRevoked();

 private:
  const AccessControl& access_;
  absl::Mutex mutex_;
  std::list<std::pair<Caller, std::weak_ptr<OpenStream>>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
