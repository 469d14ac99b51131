#include "coordinator/store/memory_state_store.h"

#include <iterator>
#include <utility>

namespace muster::coordinator {

absl::Status MemoryStateStore::Commit(const Writes& writes) {
  for (const std::string& name : writes.expired_jobs) {
    all_.jobs.erase(name);
    for (auto it = events_.begin(); it != events_.end();) {
      it = EventSubject(it->second) == name ? events_.erase(it) : std::next(it);
    }
  }
  for (const std::string& id : writes.expired_requests) all_.requests.erase(id);
  for (const std::string& id : writes.expired_tokens) all_.tokens.erase(id);
  Writes records = writes;
  records.events.clear();
  records.expired_jobs.clear();
  records.expired_requests.clear();
  records.expired_tokens.clear();
  all_.Merge(std::move(records));
  for (const v1::JobEvent& event : writes.events) events_[event.sequence()] = event;
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> MemoryStateStore::Load() {
  Snapshot snapshot;
  for (const auto& [name, record] : all_.jobs) snapshot.jobs.push_back(record);
  for (const auto& [name, record] : all_.nodes) snapshot.nodes.push_back(record);
  for (const auto& [id, record] : all_.requests) snapshot.requests.push_back(record);
  for (const auto& [id, record] : all_.tokens) snapshot.tokens.push_back(record);
  for (const auto& [sequence, event] : events_) snapshot.events.push_back(event);
  return snapshot;
}

}  // namespace muster::coordinator
