#include "coordinator/service/open_streams.h"

#include <vector>

#include "common/rpc/errors.h"

namespace muster::coordinator {

void OpenStreams::Add(Caller caller, const std::shared_ptr<OpenStream>& stream) {
  if (!access_.required()) return;
  absl::MutexLock lock(&mutex_);
  streams_.emplace_back(std::move(caller), stream);
}

void OpenStreams::EndRevoked() {
  std::vector<std::shared_ptr<OpenStream>> revoked;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = streams_.begin(); it != streams_.end();) {
      const bool in_force = access_.tokens().InForce(it->first);
      std::shared_ptr<OpenStream> stream = it->second.lock();
      if (stream != nullptr && in_force) {
        ++it;
        continue;
      }
      if (stream != nullptr) revoked.push_back(std::move(stream));
      it = streams_.erase(it);
    }
  }
  for (const std::shared_ptr<OpenStream>& stream : revoked) {
    stream->Abort(rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kUnauthenticated, "TOKEN_REVOKED",
                                               "the token of this call is not in force any more")));
  }
}

}  // namespace muster::coordinator
