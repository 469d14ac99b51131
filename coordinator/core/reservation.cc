#include "coordinator/core/reservation.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace muster::coordinator {
namespace {

// Free slots of the nodes that a gang may use, as jobs end.
class FutureSlots {
 public:
  FutureSlots(const Gang& gang, const NodePool& pool, Reservation::Excluded excluded)
      : gang_(gang), free_(pool.size(), kNever) {
    for (int i = 0; i < pool.size(); ++i) {
      const NodePool::Node& node = pool.node(i);
      if (!node.usable || node.slots() < gang.ranks_per_node || excluded(i) ||
          !Allows(gang, node.inventory)) {
        continue;
      }
      free_[i] = 0;
      ++nodes_;
      Add(i, node.free);
    }
  }

  // Some time, as far as nodes go.
  bool MayFit() const { return nodes_ >= gang_.min_nodes; }
  bool Fits() const { return ready_ >= gang_.min_nodes; }
  void Release(const LiveJob& job) {
    for (const auto& [index, slots] : job.held) Add(index, slots);
  }
  void Restore(const LiveJob& job) {
    for (const auto& [index, slots] : job.held) Add(index, -slots);
  }
  // Also what nodes still end.
  void ReleaseAll(const NodePool& pool) {
    for (int i = 0; i < pool.size(); ++i) Add(i, pool.node(i).slots() - std::max(0, free_[i]));
  }
  int free(int index) const { return free_[index]; }
  // Nodes with enough free slots, in the order in which they had them. Only without Restore.
  const std::vector<int>& ready_nodes() const { return ready_nodes_; }

 private:
  static constexpr int kNever = -1;

  void Add(int index, int slots) {
    if (free_[index] == kNever) return;
    const bool before = free_[index] >= gang_.ranks_per_node;
    free_[index] += slots;
    const bool after = free_[index] >= gang_.ranks_per_node;
    ready_ += static_cast<int>(after) - static_cast<int>(before);
    if (after && !before) ready_nodes_.push_back(index);
  }

  const Gang& gang_;
  std::vector<int> free_;
  std::vector<int> ready_nodes_;
  int nodes_ = 0;
  int ready_ = 0;
};

}  // namespace

std::optional<Reservation> Reservation::Make(const Gang& gang, const NodePool& pool,
                                             const LiveJobs& live, Excluded excluded,
                                             absl::Duration now) {
  FutureSlots future(gang, pool, excluded);
  if (!future.MayFit()) return std::nullopt;
  Reservation reservation;
  reservation.made_ = now;
  reservation.time_ = now;
  for (const auto& [end, job] : live.by_end()) {
    if (future.Fits()) break;
    future.Release(*job);
    reservation.time_ = std::max(now, end);
  }
  if (!future.Fits()) {
    future.ReleaseAll(pool);
    reservation.time_ = absl::InfiniteDuration();
  }
  reservation.spare_.assign(pool.size(), kAll);
  for (int i = 0; i < gang.min_nodes; ++i) {
    const int index = future.ready_nodes()[i];
    reservation.spare_[index] = future.free(index) - gang.ranks_per_node;
  }
  return reservation;
}

void Reservation::TakeSpare(int index, int slots) {
  if (Spare(index) != kAll) spare_[index] -= slots;
}

std::vector<int64_t> ChooseVictims(const Gang& gang, int priority, const NodePool& pool,
                                   const LiveJobs& live, Reservation::Excluded excluded) {
  if (!live.AnyBelow(priority)) return {};
  FutureSlots future(gang, pool, excluded);
  if (!future.MayFit()) return {};
  std::vector<const LiveJob*> candidates;
  for (const auto& [sequence, job] : live.jobs()) {
    if (job.stopping) future.Release(job);
    if (job.may_preempt && job.priority < priority) candidates.push_back(&job);
  }
  if (future.Fits()) return {};
  std::sort(candidates.begin(), candidates.end(), [](const LiveJob* a, const LiveJob* b) {
    return std::tie(a->priority, b->placed, b->sequence) <
           std::tie(b->priority, a->placed, a->sequence);
  });
  std::vector<const LiveJob*> chosen;
  for (const LiveJob* candidate : candidates) {
    if (future.Fits()) break;
    future.Release(*candidate);
    chosen.push_back(candidate);
  }
  if (!future.Fits()) return {};
  // Some were in the way of others only.
  std::vector<int64_t> victims;
  for (auto it = chosen.rbegin(); it != chosen.rend(); ++it) {
    future.Restore(**it);
    if (future.Fits()) continue;
    future.Release(**it);
    victims.push_back((*it)->sequence);
  }
  return victims;
}

}  // namespace muster::coordinator
