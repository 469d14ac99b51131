#include "coordinator/store/memory_state_store.h"

#include <algorithm>

namespace muster::coordinator {

absl::Status MemoryStateStore::Commit(const Writes& writes) {
  all_.Merge(writes);
  for (const std::string& id : writes.expired_requests) {
    if (writes.requests.count(id) == 0) all_.requests.erase(id);
  }
  all_.expired_requests.clear();
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> MemoryStateStore::Load() {
  Snapshot snapshot;
  for (const auto& [name, record] : all_.jobs) snapshot.jobs.push_back(record);
  for (const auto& [name, record] : all_.nodes) snapshot.nodes.push_back(record);
  for (const auto& [id, record] : all_.requests) snapshot.requests.push_back(record);
  snapshot.events = all_.events;
  std::sort(snapshot.events.begin(), snapshot.events.end(),
            [](const auto& a, const auto& b) { return a.sequence() < b.sequence(); });
  return snapshot;
}

}  // namespace muster::coordinator
