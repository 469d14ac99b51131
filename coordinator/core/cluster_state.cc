#include "coordinator/core/cluster_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

constexpr size_t kKeptEventsPerJob = 500;

absl::string_view StateWord(v1::Job::State state) {
  return absl::StripPrefix(v1::Job::State_Name(state), "STATE_");
}

}  // namespace

ClusterState::ClusterState(const Options& options, Snapshot stored, Instant now)
    : options_(options), leases_(options.lease) {
  for (internal::NodeRecord& record : stored.nodes) {
    NodeEntry& node = nodes_[record.name()];
    leases_.GrantGrace(record.name(), options.recovery_grace, now.monotonic);
    node.record = std::move(record);
  }
  for (internal::JobRecord& record : stored.jobs) {
    const std::string name = record.job().name();
    const int64_t sequence = record.submit_sequence();
    next_submission_ = std::max(next_submission_, sequence + 1);
    jobs_by_sequence_[sequence] = name;
    JobMachine& job = jobs_.emplace(name, JobMachine(std::move(record), now)).first->second;
    if (job.job().state() == v1::Job::STATE_QUEUED) queue_[sequence] = name;
    for (const std::string& node : job.Nodes()) {
      if (job.SlotsHeld(node) > 0) nodes_[node].jobs.insert(name);
    }
  }
  for (internal::RequestRecord& record : stored.requests) {
    const std::string id = record.request_id();
    requests_[id] = std::move(record);
  }
  for (v1::JobEvent& event : stored.events) {
    next_event_ = std::max(next_event_, event.sequence() + 1);
    std::deque<v1::JobEvent>& kept = events_[event.job()];
    kept.push_back(std::move(event));
    if (kept.size() > kKeptEventsPerJob) kept.pop_front();
  }
}

Effects ClusterState::Apply(const Command& command, Instant now) {
  Step step;
  step.now = now;
  std::visit([&](const auto& specific) { Handle(specific, &step); }, command);
  if (step.schedule) Schedule(&step);
  PushDesiredState(&step);
  return std::move(step.effects);
}

JobMachine* ClusterState::Find(const std::string& name) {
  auto it = jobs_.find(name);
  return it == jobs_.end() ? nullptr : &it->second;
}

void ClusterState::Drive(JobMachine* job, Step* step, absl::FunctionRef<void(JobOutput*)> input) {
  JobOutput out;
  input(&out);
  const std::string& name = job->job().name();
  for (v1::JobEvent& event : out.events) {
    event.set_sequence(next_event_++);
    step->effects.log.push_back(
        LogLine{event.type() == "Failed" ? base::LogSeverity::kError : base::LogSeverity::kInfo,
                absl::StrCat(event.type(), event.message().empty() ? "" : ": ", event.message()),
                name, ""});
    std::deque<v1::JobEvent>& kept = events_[name];
    kept.push_back(event);
    if (kept.size() > kKeptEventsPerJob) kept.pop_front();
    step->effects.writes.events.push_back(std::move(event));
  }
  if (out.persist) step->effects.writes.jobs[name] = job->record();
  if (out.changed || out.persist) step->effects.changed_jobs.insert(name);
  if (out.queue_wait.has_value()) step->effects.queue_waits.push_back(*out.queue_wait);
  for (const StateChange& change : out.state_changes) step->effects.state_changes.push_back(change);
  if (!out.state_changes.empty()) {
    if (job->job().state() == v1::Job::STATE_QUEUED) {
      queue_[job->record().submit_sequence()] = name;
    } else {
      queue_.erase(job->record().submit_sequence());
    }
  }
  if (!out.persist) return;
  for (const std::string& node_name : job->Nodes()) {
    NodeEntry& node = nodes_[node_name];
    const bool held = node.jobs.count(name) > 0;
    const bool holds = job->SlotsHeld(node_name) > 0;
    if (holds) {
      node.jobs.insert(name);
    } else if (held) {
      node.jobs.erase(name);
      step->schedule = true;
    }
    if (out.desired_changed) step->nodes_to_tell.insert(node_name);
  }
  if (out.desired_changed) step->schedule = true;
}

void ClusterState::Handle(const CreateJobCommand& command, Step* step) {
  if (!command.request_id.empty()) {
    auto it = requests_.find(command.request_id);
    if (it != requests_.end() && FromTimestamp(it->second.expire_time()) > step->now.wall) {
      if (it->second.body() != command.request_body) {
        step->effects.reply = absl::InvalidArgumentError(absl::StrCat(
            "request_id ", command.request_id, " was used for another request, which made ",
            it->second.job(), "; send a new request_id"));
        return;
      }
      if (const v1::Job* job = FindJob(it->second.job()); job != nullptr) {
        step->effects.reply = *job;
        return;
      }
    }
  }
  const std::string& name = command.job.name();
  if (jobs_.count(name) > 0) {
    step->effects.reply =
        absl::AlreadyExistsError(absl::StrCat(name, " exists already; choose another job_id"));
    return;
  }
  const int64_t sequence = next_submission_++;
  JobMachine& job =
      jobs_
          .emplace(name,
                   JobMachine(JobMachine::NewRecord(command.job, sequence, step->now), step->now))
          .first->second;
  jobs_by_sequence_[sequence] = name;
  queue_[sequence] = name;
  Drive(&job, step, [&](JobOutput* out) {
    out->persist = true;
    out->state_changes.push_back(StateChange{v1::Job::STATE_UNSPECIFIED, v1::Job::STATE_QUEUED});
    v1::JobEvent event;
    *event.mutable_time() = ToTimestamp(step->now.wall);
    event.set_job(name);
    event.set_type("Submitted");
    const Gang gang = job.gang();
    event.set_message(absl::StrCat(gang.nodes * gang.ranks_per_node, " ranks on ", gang.nodes,
                                   gang.nodes == 1 ? " node" : " nodes"));
    out->events.push_back(std::move(event));
  });
  if (!command.request_id.empty()) {
    internal::RequestRecord record;
    record.set_request_id(command.request_id);
    record.set_body(command.request_body);
    record.set_job(name);
    *record.mutable_expire_time() = ToTimestamp(step->now.wall + options_.request_retention);
    requests_[command.request_id] = record;
    step->effects.writes.expired_requests.erase(command.request_id);
    step->effects.writes.requests[command.request_id] = std::move(record);
  }
  // Now, not at the end of the step, so that the reply tells where the job stands.
  Schedule(step);
  step->schedule = false;
  step->effects.reply = job.job();
}

void ClusterState::Handle(const CancelJobCommand& command, Step* step) {
  JobMachine* job = Find(command.name);
  if (job == nullptr) {
    step->effects.reply = absl::NotFoundError(absl::StrCat("there is no ", command.name));
    return;
  }
  if (job->Terminal()) {
    step->effects.reply = absl::FailedPreconditionError(
        absl::StrCat(command.name, " has ended already: ", StateWord(job->job().state())));
    return;
  }
  Drive(job, step, [&](JobOutput* out) { job->Cancel(command.reason, step->now, out); });
  step->effects.reply = job->job();
}

const v1::Job* ClusterState::FindJob(const std::string& name) const {
  auto it = jobs_.find(name);
  return it == jobs_.end() ? nullptr : &it->second.job();
}

std::vector<v1::Job> ClusterState::ListJobs(int limit, int64_t before,
                                            const std::set<v1::Job::State>& states,
                                            int64_t* next) const {
  std::vector<v1::Job> page;
  *next = 0;
  auto end = before == 0 ? jobs_by_sequence_.end() : jobs_by_sequence_.lower_bound(before);
  int64_t last = 0;
  for (auto it = std::make_reverse_iterator(end); it != jobs_by_sequence_.rend(); ++it) {
    const v1::Job& job = jobs_.at(it->second).job();
    if (!states.empty() && states.count(job.state()) == 0) continue;
    if (static_cast<int>(page.size()) == limit) {
      *next = last;
      break;
    }
    page.push_back(job);
    last = it->first;
  }
  return page;
}

std::vector<v1::JobEvent> ClusterState::EventsAfter(const std::string& job,
                                                    int64_t sequence) const {
  std::vector<v1::JobEvent> later;
  auto it = events_.find(job);
  if (it == events_.end()) return later;
  for (const v1::JobEvent& event : it->second) {
    if (event.sequence() > sequence) later.push_back(event);
  }
  return later;
}

v1::Node ClusterState::ToNode(const NodeEntry& entry) const {
  v1::Node node;
  node.set_name(absl::StrCat("nodes/", entry.record.name()));
  node.set_state(entry.state);
  *node.mutable_inventory() = entry.record.inventory();
  node.set_slots_used(SlotsUsed(entry));
  std::set<std::string> jobs = entry.jobs;
  for (const auto& [key, leftover] : entry.leftovers) jobs.insert(key.first);
  for (const std::string& job : jobs) node.add_jobs(job);
  if (entry.last_heard_wall != absl::InfinitePast()) {
    *node.mutable_last_heartbeat_time() = ToTimestamp(entry.last_heard_wall);
  }
  *node.mutable_join_time() = entry.record.join_time();
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
    counts[static_cast<v1::Job::State>(state)] = 0;
  }
  for (const auto& [name, job] : jobs_) ++counts[job.job().state()];
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
  const Gang gang = it->second.gang();
  const int world_size = gang.nodes * gang.ranks_per_node;
  if (rank < 0 || rank >= world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(job, " has the ranks 0 to ", world_size - 1, ", not ", rank));
  }
  const internal::GenerationRecord* found = nullptr;
  for (const internal::GenerationRecord& entry : record.generations()) {
    if (generation == 0 || entry.generation() == generation) found = &entry;
  }
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat(job, " has no generation ", generation));
  }
  RankLocation location;
  location.node = found->nodes(rank / gang.ranks_per_node);
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
