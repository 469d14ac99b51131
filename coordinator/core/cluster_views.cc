// The part of ClusterState that is looked at.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

constexpr int kNamedNodes = 3;
// The first jobs of the queue, whose watchers are told that their reasons to wait have changed.
constexpr int kToldJobs = 16;

}  // namespace

std::string ClusterState::NotesOnNodes() const {
  std::string notes;
  int named = 0;
  for (const std::string& name : noted_nodes_) {
    const NodeEntry& node = Node(name);
    std::string note;
    if (node.state == v1::Node::STATE_LOST) continue;
    if (node.Taken()) {
      note = " is taken by maintenance";
    } else if (node.record.cordoned()) {
      note = " is cordoned";
    } else if (node.state == v1::Node::STATE_READY && !node.leftovers.empty()) {
      const auto& [job, generation] = node.leftovers.begin()->first;
      note = absl::StrCat(" still ends generation ", generation, " of ", job);
    } else {
      continue;
    }
    if (++named > kNamedNodes) return absl::StrCat(notes, "; ...");
    absl::StrAppend(&notes, "; nodes/", name, note);
  }
  return notes;
}

std::string ClusterState::WaitReasonOf(const QueuedJob& queued) const {
  if (now_.monotonic < queued.not_before) return queued.job->job().state_reason();
  const std::string& name = queued.job->job().name();
  auto limit = [&](int index, int free) { return HasLeftover(index, name) ? 0 : free; };
  if (pool_.Choose(queued.gang, queued.gang.min_nodes, {}, limit).empty()) {
    return WaitReason(queued.gang, pool_.CountReady(queued.gang, limit)) + NotesOnNodes();
  }
  if (head_.has_value() && head_->sequence != queued.sequence) {
    return absl::StrCat("waits behind ", head_->name);
  }
  return "waits for its turn";
}

int ClusterState::PositionOf(int64_t sequence) const {
  if (positions_.empty()) {
    JobQueue::Order order = queue_.InOrder(shares_, now_.wall);
    int position = 0;
    while (const QueuedJob* queued = order.Next()) positions_[queued->sequence] = position++;
  }
  return positions_.at(sequence);
}

v1::Job ClusterState::Shown(const JobMachine& job, bool with_position) const {
  v1::Job shown = job.job();
  const int64_t sequence = job.record().submit_sequence();
  const QueuedJob* queued = queue_.Find(sequence);
  if (queued == nullptr) return shown;
  shown.set_state_reason(WaitReasonOf(*queued));
  if (with_position) shown.set_queue_position(PositionOf(sequence));
  if (head_.has_value() && head_->sequence == sequence &&
      head_->reservation.time() < absl::InfiniteDuration()) {
    const absl::Duration wait =
        std::max(absl::ZeroDuration(), head_->reservation.time() - now_.monotonic);
    *shown.mutable_expected_start_time() = ToTimestamp(now_.wall + wait);
  }
  return shown;
}

void ClusterState::TellWaiting(Step* step) {
  std::map<std::string, std::string> reasons;
  JobQueue::Order order = queue_.InOrder(shares_, now_.wall);
  for (int i = 0; i < kToldJobs; ++i) {
    const QueuedJob* queued = order.Next();
    if (queued == nullptr) break;
    const std::string& name = queued->job->job().name();
    const std::string& reason = reasons[name] = WaitReasonOf(*queued);
    auto told = told_reasons_.find(name);
    if (told == told_reasons_.end() || told->second != reason) {
      step->effects.changed_jobs.insert(name);
    }
  }
  told_reasons_ = std::move(reasons);
}

const v1::Job* ClusterState::FindJob(const std::string& name) const {
  auto it = jobs_.find(name);
  if (it == jobs_.end()) return nullptr;
  if (it->second.job().state() != v1::Job::STATE_QUEUED) return &it->second.job();
  auto shown = shown_.find(name);
  if (shown == shown_.end()) shown = shown_.emplace(name, Shown(it->second, true)).first;
  return &shown->second;
}

std::vector<v1::Job> ClusterState::ListJobs(int limit, int64_t before,
                                            const std::set<v1::Job::State>& states,
                                            int64_t* next) const {
  std::vector<v1::Job> page;
  for (const int64_t sequence : index_.List(limit, before, states, next)) {
    page.push_back(Shown(*index_.Get(sequence), true));
  }
  return page;
}

std::vector<v1::JobEvent> ClusterState::EventsAfter(const std::string& job,
                                                    int64_t sequence) const {
  bool more = false;
  return events_.List(job, sequence, static_cast<int>(EventLog::kKeptOfJob), &more);
}

std::vector<v1::JobEvent> ClusterState::ListEvents(const std::string& parent,
                                                   int64_t after_sequence, int limit,
                                                   bool* more) const {
  return events_.List(parent, after_sequence, limit, more);
}

v1::Node ClusterState::ToNode(const NodeEntry& entry) const {
  v1::Node node;
  node.set_name(absl::StrCat("nodes/", entry.record.name()));
  node.set_state(entry.state);
  *node.mutable_inventory() = entry.record.inventory();
  node.set_slots_used(SlotsUsed(entry));
  std::set<std::string> jobs;
  for (const auto& [job, slots] : entry.jobs) jobs.insert(job);
  for (const auto& [key, leftover] : entry.leftovers) jobs.insert(key.first);
  for (const std::string& job : jobs) node.add_jobs(job);
  if (entry.last_heard_wall != absl::InfinitePast()) {
    *node.mutable_last_heartbeat_time() = ToTimestamp(entry.last_heard_wall);
  }
  *node.mutable_join_time() = entry.record.join_time();
  node.set_cordoned(entry.record.cordoned() || entry.Taken());
  node.set_draining(entry.record.draining() || entry.Taken());
  std::vector<std::string> reasons;
  if (entry.record.cordoned()) reasons.push_back(entry.record.cordon_reason());
  for (const internal::MaintenanceRecord& announced : entry.record.maintenance()) {
    *node.add_maintenance() = announced.event();
    if (announced.event().type() != "Freeze") {
      reasons.push_back(absl::StrCat("maintenance: ", announced.event().type()));
    }
  }
  node.set_cordon_reason(absl::StrJoin(reasons, "; "));
  return node;
}

std::optional<v1::Node> ClusterState::FindNode(const std::string& name) const {
  auto it = nodes_.find(std::string(absl::StripPrefix(name, "nodes/")));
  if (it == nodes_.end() || !absl::StartsWith(name, "nodes/")) return std::nullopt;
  return ToNode(it->second);
}

std::vector<v1::Node> ClusterState::ListNodes(int limit, const std::string& after,
                                              bool* more) const {
  std::vector<v1::Node> page;
  *more = false;
  for (auto it = nodes_.upper_bound(std::string(absl::StripPrefix(after, "nodes/")));
       it != nodes_.end(); ++it) {
    if (static_cast<int>(page.size()) == limit) {
      *more = true;
      break;
    }
    page.push_back(ToNode(it->second));
  }
  return page;
}

std::map<v1::Job::State, int> ClusterState::CountJobs() const {
  std::map<v1::Job::State, int> counts;
  for (int state = v1::Job::STATE_QUEUED; state <= v1::Job::State_MAX; ++state) {
    counts[static_cast<v1::Job::State>(state)] = index_.Count(static_cast<v1::Job::State>(state));
  }
  return counts;
}

std::map<v1::Node::State, int> ClusterState::CountNodes() const {
  std::map<v1::Node::State, int> counts;
  for (int state = v1::Node::STATE_READY; state <= v1::Node::State_MAX; ++state) {
    counts[static_cast<v1::Node::State>(state)] = 0;
  }
  for (const auto& [name, node] : nodes_) ++counts[node.state];
  return counts;
}

std::map<std::string, absl::Duration> ClusterState::HeartbeatAges(Instant now) const {
  std::map<std::string, absl::Duration> ages;
  for (const auto& [name, node] : nodes_) {
    if (node.session != 0) ages[name] = now.monotonic - leases_.LastHeard(name);
  }
  return ages;
}

absl::StatusOr<ClusterState::RankLocation> ClusterState::LocateRank(const std::string& job,
                                                                    int64_t generation,
                                                                    int rank) const {
  auto it = jobs_.find(job);
  if (it == jobs_.end()) return absl::NotFoundError(absl::StrCat("there is no ", job));
  const internal::JobRecord& record = it->second.record();
  if (record.generations().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(job, " has not been placed on nodes yet, so it has no logs"));
  }
  const internal::GenerationRecord* found = nullptr;
  for (const internal::GenerationRecord& entry : record.generations()) {
    if (generation == 0 || entry.generation() == generation) found = &entry;
  }
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat(job, " has no generation ", generation));
  }
  const int ranks_per_node = it->second.gang().ranks_per_node;
  const int world_size = found->nodes_size() * ranks_per_node;
  if (rank < 0 || rank >= world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(job, " has the ranks 0 to ", world_size - 1, ", not ", rank));
  }
  RankLocation location;
  location.node = found->nodes(rank / ranks_per_node);
  location.generation = found->generation();
  auto node = nodes_.find(location.node);
  if (node == nodes_.end() || node->second.session == 0) {
    return absl::UnavailableError(absl::StrCat("the log of rank ", rank, " is on nodes/",
                                               location.node, ", which is not connected"));
  }
  location.session = node->second.session;
  return location;
}

}  // namespace muster::coordinator
