#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "coordinator/core/effects.h"

namespace muster::coordinator {

// Of one job or node (EventSubject); ClusterState shows no more either.
inline constexpr int kKeptEventsPerSubject = 500;

// Where the coordinator's records lie. One caller at a time. tests/unit/coordinator/store holds the
// contract test that every implementation passes.
class StateStore {
 public:
  virtual ~StateStore() = default;
  // All of `writes` or, with an error, nothing; once it returns OK a crash or power loss undoes
  // none of it. May be called again with the same writes after an error. Aborted, for ever: another
  // coordinator has taken the store, and nothing that this one knows may be acted on. With no
  // writes it only says whether this one may act.
  virtual absl::Status Commit(const Writes& writes) = 0;
  // Everything committed and not expired; events in order of sequence, of each subject at least the
  // newest kKeptEventsPerSubject.
  virtual absl::StatusOr<Snapshot> Load() = 0;
};

}  // namespace muster::coordinator
