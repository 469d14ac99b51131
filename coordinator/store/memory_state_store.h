#pragma once

#include <cstdint>
#include <map>

#include "coordinator/store/state_store.h"

namespace muster::coordinator {

// Keeps the records while the object lives.
class MemoryStateStore : public StateStore {
 public:
  absl::Status Commit(const Writes& writes) override;
  absl::StatusOr<Snapshot> Load() override;

 private:
  // Without events.
  Writes all_;
  std::map<int64_t, v1::JobEvent> events_;
};

}  // namespace muster::coordinator
