#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "coordinator/core/effects.h"

namespace muster::coordinator {

// Where the coordinator's records lie. One caller at a time. tests/unit/coordinator/store holds the
// contract test that every implementation passes.
class StateStore {
 public:
  virtual ~StateStore() = default;
  // All of `writes` or, with an error, nothing; once it returns OK a crash or power loss undoes
  // none of it. May be called again with the same writes after an error.
  virtual absl::Status Commit(const Writes& writes) = 0;
  // Everything committed; events in order of sequence.
  virtual absl::StatusOr<Snapshot> Load() = 0;
};

}  // namespace muster::coordinator
