#include "coordinator/core/job_queue.h"

#include <algorithm>
#include <iterator>

namespace muster::coordinator {

void JobQueue::Insert(QueuedJob job) {
  Erase(job.sequence);
  lane_of_[job.sequence] = {job.priority, job.creator};
  Lane& lane = levels_[job.priority][job.creator];
  const int64_t sequence = job.sequence;
  lane.emplace(sequence, std::move(job));
}

void JobQueue::Erase(int64_t sequence) {
  auto it = lane_of_.find(sequence);
  if (it == lane_of_.end()) return;
  levels_[it->second.first][it->second.second].erase(sequence);
  lane_of_.erase(it);
}

const QueuedJob* JobQueue::Find(int64_t sequence) const {
  auto it = lane_of_.find(sequence);
  if (it == lane_of_.end()) return nullptr;
  return &levels_.at(it->second.first).at(it->second.second).at(sequence);
}

void JobQueue::Compact() {
  for (auto level = levels_.begin(); level != levels_.end();) {
    for (auto lane = level->second.begin(); lane != level->second.end();) {
      lane = lane->second.empty() ? level->second.erase(lane) : std::next(lane);
    }
    level = level->second.empty() ? levels_.erase(level) : std::next(level);
  }
}

JobQueue::Order::Order(const Levels& levels, const FairShare& shares, absl::Time now)
    : level_(levels.begin()), levels_end_(levels.end()), shares_(&shares), now_(now) {}

bool JobQueue::Order::Later(const Turn& a, const Turn& b) {
  if (a.use != b.use) return a.use > b.use;
  return a.sequence > b.sequence;
}

const QueuedJob* JobQueue::Order::Next() {
  while (turns_.empty()) {
    if (level_ == levels_end_) return nullptr;
    for (const auto& [creator, lane] : level_->second) {
      if (lane.empty()) continue;
      turns_.push_back(
          Turn{shares_->Of(creator, now_), lane.begin()->first, lane.begin(), lane.end()});
    }
    std::make_heap(turns_.begin(), turns_.end(), Later);
    ++level_;
  }
  std::pop_heap(turns_.begin(), turns_.end(), Later);
  Turn turn = turns_.back();
  turns_.pop_back();
  const QueuedJob* job = &turn.next->second;
  ++turn.next;
  if (turn.next != turn.end) {
    turn.sequence = turn.next->first;
    turn.use += job->gang.nodes * job->gang.ranks_per_node * absl::ToDoubleSeconds(kHeldSlotCounts);
    turns_.push_back(turn);
    std::push_heap(turns_.begin(), turns_.end(), Later);
  }
  return job;
}

}  // namespace muster::coordinator
