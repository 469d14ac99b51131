#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

#include "coordinator/core/live_jobs.h"
#include "coordinator/core/node_pool.h"
#include "coordinator/core/placement.h"

namespace muster::coordinator {

// What is kept for the first job of the queue that does not fit: nodes, and from when on.
//
// Backfill: a later job may take slots of those nodes only if it has left them by then, or if they
// are more than the reserved gang needs there.
class Reservation {
 public:
  // Whether a node is never for the job, whatever becomes free.
  using Excluded = absl::FunctionRef<bool(int index)>;
  // Walks the live jobs by expected end until the gang (its min_nodes) fits. Those with no known
  // end come last, and then the time is not known. Nothing when no number of ends makes it fit.
  static std::optional<Reservation> Make(const Gang& gang, const NodePool& pool,
                                         const LiveJobs& live, Excluded excluded,
                                         absl::Duration now);

  // Instant::monotonic; infinite: not known.
  absl::Duration time() const { return time_; }
  absl::Duration made() const { return made_; }
  // Slots that a job on this node may hold at `time`, in addition to what ends before.
  int Spare(int index) const {
    return static_cast<size_t>(index) < spare_.size() ? spare_[index] : kAll;
  }
  // A later job that will still be there has taken so many.
  void TakeSpare(int index, int slots);

 private:
  static constexpr int kAll = std::numeric_limits<int>::max();

  absl::Duration time_;
  absl::Duration made_;
  // By index of node.
  std::vector<int> spare_;
};

// The jobs to stop so that a gang of this priority fits: lowest priority first, of equals the
// youngest, as few as needed. Empty when it fits once the jobs that are being stopped have ended,
// or does not fit however many are stopped.
std::vector<int64_t> ChooseVictims(const Gang& gang, int priority, const NodePool& pool,
                                   const LiveJobs& live, Reservation::Excluded excluded);

}  // namespace muster::coordinator
