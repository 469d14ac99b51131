#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::coordinator {

// Of several coordinators over one store the one that may act: the leader. It holds the lease for a
// term; the next leader has a higher one.
class LeaderLease {
 public:
  struct Leader {
    // Where its gRPC API listens; empty until it does.
    std::string address;
    int64_t term = 0;
  };

  virtual ~LeaderLease() = default;
  // Takes the lease when nobody holds it: then nothing is returned. Otherwise who holds it.
  virtual absl::StatusOr<std::optional<Leader>> TryAcquire() = 0;
  // Once every while, well within the lease's duration. Aborted, for ever, when another coordinator
  // has taken it; other errors can be tried again: nobody has taken it as far as is known.
  virtual absl::Status Renew() = 0;
  // Gives it back, so that nobody waits for its end.
  virtual absl::Status Release() = 0;
  // What Leader::address says from the next Renew on.
  virtual void SetAddress(const std::string& address) = 0;
  // By this process's own clock, without asking anybody: OK while nobody can have taken the lease,
  // Unavailable when it has run out and must be renewed first, Aborted when it is lost.
  // Thread-safe.
  virtual absl::Status Check() const = 0;
};

}  // namespace muster::coordinator
