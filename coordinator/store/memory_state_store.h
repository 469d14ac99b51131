#pragma once

#include "coordinator/store/state_store.h"

namespace muster::coordinator {

// Keeps the records while the object lives.
class MemoryStateStore : public StateStore {
 public:
  absl::Status Commit(const Writes& writes) override;
  absl::StatusOr<Snapshot> Load() override;

 private:
  Writes all_;
};

}  // namespace muster::coordinator
