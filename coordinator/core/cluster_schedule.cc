// The part of ClusterState that hands out slots and tells the nodes.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "coordinator/core/cluster_state.h"

namespace muster::coordinator {
namespace {

// A reservation is worked out anew after so long: jobs end sooner or later than they said.
constexpr absl::Duration kReservationAge = absl::Seconds(10);

// Jobs that wait behind the first one, for which others may be stopped.
constexpr size_t kPreemptDepth = 8;

// Sizes of gangs that do not fit in this pass, so that a thousand equal jobs cost one look. Free
// slots only become fewer in a pass. Gangs that are particular about nodes are not noted.
class FailedSizes {
 public:
  bool Covers(const Gang& gang) const {
    return gang.plain() && std::any_of(failed_.begin(), failed_.end(), [&](const Size& failed) {
             return failed.ranks_per_node <= gang.ranks_per_node && failed.nodes <= gang.min_nodes;
           });
  }
  void Add(const Gang& gang) {
    if (gang.plain() && !Covers(gang)) failed_.push_back({gang.ranks_per_node, gang.min_nodes});
  }

 private:
  struct Size {
    int ranks_per_node = 0;
    int nodes = 0;
  };
  std::vector<Size> failed_;
};

}  // namespace

int ClusterState::SlotsUsed(const NodeEntry& node) const {
  int used = 0;
  for (const auto& [job, slots] : node.jobs) used += slots;
  for (const auto& [key, leftover] : node.leftovers) used += leftover.slots;
  return used;
}

bool ClusterState::NodeEntry::HasLeftover(const std::string& job) const {
  auto it = leftovers.lower_bound({job, 0});
  return it != leftovers.end() && it->first.first == job;
}

bool ClusterState::NodeEntry::Usable() const {
  return state == v1::Node::STATE_READY && !refuses && !Busy() && !record.cordoned() && !Taken();
}

void ClusterState::RefreshPool(Step* step) {
  for (NodeEntry* dirty : dirty_nodes_) {
    NodeEntry& node = *dirty;
    const std::string& name = node.record.name();
    node.dirty = false;
    const bool usable = node.Usable();
    if (pool_.node(node.index).usable != usable) ++pool_changes_;
    if (node.leftovers.empty()) {
      leftover_nodes_.erase(node.index);
    } else {
      leftover_nodes_.insert(node.index);
    }
    if (node.Taken() || node.record.cordoned() || !node.leftovers.empty()) {
      noted_nodes_.insert(name);
    } else {
      noted_nodes_.erase(name);
    }
    pool_.Set(node.index, usable, node.record.inventory().slots() - SlotsUsed(node));
    // Not before its jobs have been placed elsewhere: they may need its checkpoints.
    if (!node.record.maintenance().empty()) step->maintenance_to_approve.insert(name);
  }
  dirty_nodes_.clear();
}

std::set<int> ClusterState::IndexesOf(const JobMachine& job) const {
  std::set<int> indexes;
  for (const internal::ShareRecord& share : job.record().shares()) {
    indexes.insert(pool_.Find(share.node()));
  }
  indexes.erase(-1);
  return indexes;
}

bool ClusterState::HasLeftover(int index, const std::string& job) const {
  return leftover_nodes_.count(index) > 0 && Node(pool_.node(index).name).HasLeftover(job);
}

bool ClusterState::OthersCouldUse(int64_t sequence, Instant now) const {
  JobQueue::Order order = queue_.InOrder(shares_, now.wall);
  for (int i = 0; i < kBackfillDepth; ++i) {
    const QueuedJob* other = order.Next();
    if (other == nullptr) return false;
    if (other->sequence != sequence && pool_.FitsWhenEmpty(other->gang)) return true;
  }
  return true;
}

std::vector<int> ClusterState::ChooseNodes(const QueuedJob& queued, bool ends_before,
                                           const Head* head, Instant now) const {
  const std::string& name = queued.job->job().name();
  auto limit = [&](int index, int free) {
    if (HasLeftover(index, name)) return 0;
    return head == nullptr || ends_before ? free : std::min(free, head->reservation.Spare(index));
  };
  const Gang& gang = queued.gang;
  const bool may_spread = gang.max_nodes > gang.nodes && !OthersCouldUse(queued.sequence, now);
  return pool_.Choose(gang, may_spread ? gang.max_nodes : gang.nodes, IndexesOf(*queued.job),
                      limit);
}

void ClusterState::PlaceOn(JobMachine* job, const std::vector<int>& chosen, Step* step) {
  std::vector<std::string> names;
  for (int index : chosen) names.push_back(pool_.node(index).name);
  Drive(job, step, [&](JobOutput* out) {
    job->Place(
        names, [this](const std::string& node) { return ReachOf(node); }, step->now, out);
  });
  RefreshPool(step);
}

const ClusterState::Head* ClusterState::KeepFor(const QueuedJob& queued, Step* step) {
  if (head_.has_value() && head_->sequence == queued.sequence &&
      head_->pool_changes == pool_changes_ && step->now.monotonic < head_->reservation.time() &&
      step->now.monotonic - head_->reservation.made() < kReservationAge) {
    return &*head_;
  }
  head_.reset();
  const std::string& name = queued.job->job().name();
  auto excluded = [&](int index) { return HasLeftover(index, name); };
  StopOthersFor(queued, excluded, step);
  std::optional<Reservation> reservation =
      Reservation::Make(queued.gang, pool_, live_, excluded, step->now.monotonic);
  if (!reservation.has_value()) return nullptr;
  step->effects.changed_jobs.insert(name);
  head_ = Head{queued.sequence, name, queued.priority, pool_changes_, *std::move(reservation)};
  return &*head_;
}

void ClusterState::StopOthersFor(const QueuedJob& queued, Reservation::Excluded excluded,
                                 Step* step) {
  const std::string& name = queued.job->job().name();
  for (int64_t victim : ChooseVictims(queued.gang, queued.priority, pool_, live_, excluded)) {
    JobMachine* job = index_.Get(victim);
    Drive(job, step, [&](JobOutput* out) {
      job->Preempt(absl::StrCat("for ", name, ", which has priority ", queued.priority), "",
                   step->now, out);
    });
  }
}

void ClusterState::StopOthersBehind(const std::vector<const Gang*>& waiting,
                                    const QueuedJob& queued, Step* step) {
  if (!live_.AnyBelow(queued.priority) || waiting.size() > kPreemptDepth) return;
  const Gang& gang = queued.gang;
  // The common case: whatever it could have, one that waits before it could have as well.
  const bool for_nothing = std::any_of(waiting.begin(), waiting.end(), [&](const Gang* first) {
    return first->labels.empty() && first->gpu_types.empty() &&
           first->ranks_per_node <= gang.ranks_per_node;
  });
  if (for_nothing) return;
  const std::string& name = queued.job->job().name();
  StopOthersFor(
      queued,
      [&](int index) {
        const NodePool::Node& node = pool_.node(index);
        return HasLeftover(index, name) ||
               std::any_of(waiting.begin(), waiting.end(), [&](const Gang* first) {
                 return node.slots() >= first->ranks_per_node && Allows(*first, node.inventory);
               });
      },
      step);
}

void ClusterState::Schedule(Step* step) {
  positions_.clear();
  RefreshPool(step);
  queue_.Compact();
  const Instant now = step->now;
  const Head* head = nullptr;
  int behind = 0;
  // With all free slots, and within what the reservation leaves.
  FailedSizes failed;
  FailedSizes failed_around;
  FailedSizes impossible;
  // Those that were to be placed by now.
  std::vector<const Gang*> waiting;
  JobQueue::Order order = queue_.InOrder(shares_, now.wall);
  while (const QueuedJob* queued = order.Next()) {
    JobMachine* job = queued->job;
    if (now.monotonic < queued->not_before) continue;
    if (head != nullptr && ++behind > kBackfillDepth) break;
    if (impossible.Covers(queued->gang)) continue;
    std::vector<int> chosen;
    bool ends_before = false;
    if (!failed.Covers(queued->gang)) {
      ends_before = head != nullptr && head->reservation.time() < absl::InfiniteDuration() &&
                    now.monotonic + queued->expected_run_time <= head->reservation.time();
      FailedSizes& known = head == nullptr || ends_before ? failed : failed_around;
      if (!known.Covers(queued->gang)) {
        chosen = ChooseNodes(*queued, ends_before, head, now);
        // What another job still ends may hold up only this one.
        if (chosen.empty() && leftover_nodes_.empty()) known.Add(queued->gang);
      }
    }
    if (!chosen.empty()) {
      if (head == nullptr) {
        head_.reset();
      } else if (!ends_before) {
        for (int index : chosen) {
          head_->reservation.TakeSpare(index, queued->gang.ranks_per_node);
        }
      }
      PlaceOn(job, chosen, step);
    } else if (head == nullptr) {
      head = KeepFor(*queued, step);
      if (head != nullptr) waiting.push_back(&queued->gang);
      if (head == nullptr && leftover_nodes_.empty()) impossible.Add(queued->gang);
    } else {
      StopOthersBehind(waiting, *queued, step);
      if (pool_.FitsWhenEmpty(queued->gang)) waiting.push_back(&queued->gang);
    }
  }
  if (head == nullptr) head_.reset();
}

void ClusterState::GrowElasticJobs(Step* step) {
  const absl::Duration now = step->now.monotonic;
  for (const auto& [sequence, live] : live_.jobs()) {
    if (!live.may_grow || live.end - now < kGrowAfter) continue;
    JobMachine* job = Find(live.name);
    if (job->job().state() != v1::Job::STATE_RUNNING || now - job->running_since() < kGrowAfter) {
      continue;
    }
    const std::set<int> own = IndexesOf(*job);
    const int spare = pool_.CountReady(job->gang(), [&](int index, int free) {
      return own.count(index) > 0 || HasLeftover(index, live.name) ? 0 : free;
    });
    if (spare == 0 || OthersCouldUse(sequence, step->now)) continue;
    const int nodes = static_cast<int>(own.size());
    const std::string reason = absl::StrCat(
        "from ", nodes, " to ", std::min(nodes + spare, job->gang().max_nodes), " nodes");
    Drive(job, step, [&](JobOutput* out) { job->Grow(reason, step->now, out); });
    // The others when it has been placed: nodes may not be there for two.
    return;
  }
}

void ClusterState::OutdateDesiredState(const Step& step) {
  for (NodeEntry* node : step.nodes_to_tell) {
    if (node->session == 0) continue;
    // Above all versions of earlier runs of the coordinator.
    node->desired_version = std::max(node->desired_version + 1, absl::ToUnixMicros(step.now.wall));
    if (!std::exchange(node->untold, true)) untold_nodes_.push_back(node);
  }
}

void ClusterState::TellNodes(Effects* effects) {
  for (NodeEntry* untold : untold_nodes_) {
    untold->untold = false;
    const NodeEntry& node = *untold;
    const std::string& name = node.record.name();
    if (node.session == 0) continue;
    SessionMessage& message = effects->messages.emplace_back();
    message.session = node.session;
    v1::DesiredState* desired = message.message.mutable_desired();
    desired->set_version(node.desired_version);
    for (const auto& [job, slots] : node.jobs) {
      const JobMachine& machine = jobs_.at(job);
      v1::Allocation* allocation = machine.AddAllocationOn(name, desired);
      if (allocation == nullptr) {
        if (machine.Aborted()) {
          v1::AbortedGeneration* aborted = desired->add_aborted();
          aborted->set_job(job);
          aborted->set_generation(machine.job().generation());
        }
        continue;
      }
      allocation->set_machine_slots(MachineSlots(node.record.inventory()));
      if (allocation->goal() == v1::Allocation::GOAL_PREPARE) AddPeers(machine, name, allocation);
      if (allocation->has_fetch()) AddFetchSources(machine, allocation);
    }
  }
  untold_nodes_.clear();
}

void ClusterState::AddPeers(const JobMachine& job, const std::string& node,
                            v1::Allocation* allocation) const {
  for (const internal::ShareRecord& share : job.record().shares()) {
    if (share.node() == node) continue;
    v1::Peer* peer = allocation->add_peers();
    peer->set_node(share.node());
    peer->set_probe_address(Node(share.node()).record.inventory().probe_address());
  }
}

int ClusterState::MachineSlots(const v1::Inventory& inventory) const {
  auto machine = machines_.find(inventory.machine_id());
  if (inventory.machine_id().empty() || machine == machines_.end()) return inventory.slots();
  int slots = 0;
  for (const std::string& name : machine->second) {
    const NodeEntry& node = Node(name);
    if (node.state != v1::Node::STATE_LOST) slots += node.record.inventory().slots();
  }
  return slots;
}

v1::Job ClusterState::DryRun(const v1::Job& job) const {
  v1::Job shown = job;
  shown.set_state(v1::Job::STATE_QUEUED);
  shown.clear_ranks();
  const Gang gang = GangOf(job.config());
  const int priority = job.config().resources().priority();
  auto all = [](int, int free) { return free; };
  const bool first = !head_.has_value() || priority > head_->priority;
  std::vector<int> chosen = pool_.Choose(gang, gang.nodes, {}, [&](int index, int free) {
    return first ? free : std::min(free, head_->reservation.Spare(index));
  });
  if (!chosen.empty()) {
    for (int index : chosen) {
      for (int local = 0; local < gang.ranks_per_node; ++local) {
        v1::RankPlacement* rank = shown.add_ranks();
        rank->set_rank(shown.ranks_size() - 1);
        rank->set_local_rank(local);
        rank->set_node(absl::StrCat("nodes/", pool_.node(index).name));
      }
    }
    return shown;
  }
  if (!pool_.FitsWhenEmpty(gang)) {
    shown.set_state_reason(absl::StrCat(
        "would wait for more nodes: it needs ", gang.min_nodes, NodeWish(gang, ""), ", and ",
        pool_.CountLargeEnough(gang), " of the ", pool_.CountUsable(), " ready nodes ",
        gang.plain() ? "have as many" : "are like that", NotesOnNodes()));
    return shown;
  }
  if (!first && !pool_.Choose(gang, gang.nodes, {}, all).empty()) {
    shown.set_state_reason(absl::StrCat("would wait behind ", head_->name));
    return shown;
  }
  std::vector<std::string> victims;
  if (first) {
    for (int64_t victim : ChooseVictims(gang, priority, pool_, live_, [](int) { return false; })) {
      victims.push_back(index_.Get(victim)->job().name());
    }
  }
  shown.set_state_reason(
      victims.empty()
          ? absl::StrCat("would be queued: it ", WaitReason(gang, pool_.CountReady(gang, all)))
          : absl::StrCat("would have ", absl::StrJoin(victims, ", "),
                         " stopped after a checkpoint, and take its place"));
  return shown;
}

}  // namespace muster::coordinator
