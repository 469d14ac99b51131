#include "coordinator/service/session_registry.h"

#include <utility>

namespace muster::coordinator {

SessionId SessionRegistry::Add(std::shared_ptr<SessionWriter> session) {
  absl::MutexLock lock(&mutex_);
  const SessionId id = next_++;
  sessions_[id] = std::move(session);
  return id;
}

void SessionRegistry::Remove(SessionId id) {
  absl::MutexLock lock(&mutex_);
  sessions_.erase(id);
}

std::shared_ptr<SessionWriter> SessionRegistry::Find(SessionId id) {
  absl::MutexLock lock(&mutex_);
  auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second;
}

int SessionRegistry::size() {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(sessions_.size());
}

bool SessionRegistry::Send(SessionId id, v1::CoordinatorMessage message, bool close) {
  std::shared_ptr<SessionWriter> session = Find(id);
  if (session == nullptr) return false;
  session->Send(std::move(message), close);
  return true;
}

void SessionRegistry::CloseAll(const std::string& reason) {
  std::map<SessionId, std::shared_ptr<SessionWriter>> sessions;
  {
    absl::MutexLock lock(&mutex_);
    sessions = sessions_;
  }
  for (auto& [id, session] : sessions) {
    v1::CoordinatorMessage message;
    message.mutable_goodbye()->set_reason(reason);
    message.mutable_goodbye()->set_retry(true);
    session->Send(std::move(message), true);
  }
}

}  // namespace muster::coordinator
