#include "coordinator/service/log_relay.h"

#include <utility>
#include <vector>

namespace muster::coordinator {
namespace {

v1::LogChunk BrokenOff(int64_t request_id) {
  v1::LogChunk chunk;
  chunk.set_request_id(request_id);
  chunk.set_end(true);
  chunk.set_error("the node that holds the log is not connected any more");
  return chunk;
}

}  // namespace

int64_t LogRelay::Open(SessionId session, const v1::StreamLogsRequest& request,
                       std::shared_ptr<LogSink> sink) {
  int64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    id = next_++;
    readers_[id] = Reader{session, std::move(sink)};
  }
  v1::CoordinatorMessage message;
  message.mutable_log_request()->set_request_id(id);
  *message.mutable_log_request()->mutable_request() = request;
  if (!sessions_->Send(session, std::move(message))) Deliver(session, BrokenOff(id));
  return id;
}

void LogRelay::Cancel(int64_t request_id) {
  SessionId session = 0;
  {
    absl::MutexLock lock(&mutex_);
    auto it = readers_.find(request_id);
    if (it == readers_.end()) return;
    session = it->second.session;
    readers_.erase(it);
  }
  v1::CoordinatorMessage message;
  message.mutable_log_cancel()->set_request_id(request_id);
  sessions_->Send(session, std::move(message));
}

void LogRelay::Deliver(SessionId session, const v1::LogChunk& chunk) {
  std::shared_ptr<LogSink> sink;
  {
    absl::MutexLock lock(&mutex_);
    auto it = readers_.find(chunk.request_id());
    // A worker answers only what it was asked.
    if (it == readers_.end() || it->second.session != session) return;
    sink = it->second.sink;
    if (chunk.end()) readers_.erase(it);
  }
  sink->TakeChunk(chunk);
}

void LogRelay::SessionEnded(SessionId session) {
  std::vector<std::pair<int64_t, std::shared_ptr<LogSink>>> cut;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = readers_.begin(); it != readers_.end();) {
      if (it->second.session != session) {
        ++it;
        continue;
      }
      cut.emplace_back(it->first, it->second.sink);
      it = readers_.erase(it);
    }
  }
  for (const auto& [id, sink] : cut) sink->TakeChunk(BrokenOff(id));
}

}  // namespace muster::coordinator
