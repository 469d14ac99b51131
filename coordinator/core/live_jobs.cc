#include "coordinator/core/live_jobs.h"

#include <tuple>
#include <utility>

namespace muster::coordinator {

bool LiveJobs::Earlier::operator()(const Ending& a, const Ending& b) const {
  return std::make_tuple(a.first, a.second->sequence) <
         std::make_tuple(b.first, b.second->sequence);
}

void LiveJobs::Put(LiveJob job) {
  Erase(job.sequence);
  if (job.may_preempt) ++preemptible_[job.priority];
  const int64_t sequence = job.sequence;
  const LiveJob& kept = jobs_[sequence] = std::move(job);
  by_end_.insert({kept.end, &kept});
}

void LiveJobs::Erase(int64_t sequence) {
  auto it = jobs_.find(sequence);
  if (it == jobs_.end()) return;
  const LiveJob& job = it->second;
  by_end_.erase({job.end, &job});
  if (job.may_preempt && --preemptible_[job.priority] == 0) preemptible_.erase(job.priority);
  jobs_.erase(it);
}

void LiveJobs::SetEnd(int64_t sequence, absl::Duration end) {
  auto it = jobs_.find(sequence);
  if (it == jobs_.end() || it->second.end == end) return;
  by_end_.erase({it->second.end, &it->second});
  it->second.end = end;
  by_end_.insert({end, &it->second});
}

int LiveJobs::SlotsOf(int64_t sequence) const {
  auto it = jobs_.find(sequence);
  if (it == jobs_.end()) return 0;
  int slots = 0;
  for (const auto& [node, held] : it->second.held) slots += held;
  return slots;
}

bool LiveJobs::AnyBelow(int priority) const {
  return !preemptible_.empty() && preemptible_.begin()->first < priority;
}

}  // namespace muster::coordinator
