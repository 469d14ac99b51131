// The part of ClusterState that lets time pass.
#include <set>

#include "absl/strings/str_cat.h"

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

constexpr absl::Duration kLookAtWaiting = absl::Seconds(1);

}  // namespace

bool ClusterState::LeaseExpired(const NodeEntry& node, Instant now) const {
  if (now.monotonic < node.frozen_until) return false;
  const std::string& name = node.record.name();
  absl::Duration last_advance = -absl::InfiniteDuration();
  absl::Duration interval;
  for (const auto& [job_name, slots] : node.jobs) {
    const JobMachine& job = jobs_.at(job_name);
    const absl::Duration elsewhere = job.LastAdvanceElsewhere(name);
    if (job.job().state() != v1::Job::STATE_RUNNING || elsewhere < last_advance) continue;
    if (elsewhere == -absl::InfiniteDuration()) continue;
    last_advance = elsewhere;
    interval = job.advance_interval();
  }
  return leases_.Expired(name, last_advance, interval, now.monotonic);
}

void ClusterState::Handle(const TickCommand&, Step* step) {
  // After a stopped process or a suspended machine the ticks come before the heartbeats that wait.
  const absl::Duration pause = step->now.monotonic - last_tick_;
  if (pause > options_.lease.heartbeat_interval) {
    leases_.Forgive(pause);
    for (const auto& [sequence, live] : live_.jobs()) Find(live.name)->Forgive(pause);
  }
  const absl::Duration passed =
      pause > absl::ZeroDuration() && pause <= options_.lease.heartbeat_interval
          ? pause
          : absl::ZeroDuration();
  last_tick_ = step->now.monotonic;
  for (auto& [name, node] : nodes_) {
    if (node.state == v1::Node::STATE_READY && leases_.HeartbeatMissed(name, step->now.monotonic)) {
      node.state = v1::Node::STATE_UNREACHABLE;
      MarkDirty(&node);
      step->schedule = true;
      step->effects.log.push_back(
          LogLine{base::LogSeverity::kWarning, "node is unreachable: no heartbeat", "", name});
    }
    if (node.state == v1::Node::STATE_UNREACHABLE && LeaseExpired(node, step->now)) {
      LoseNode(&node, step);
    }
  }
  ReviewFetches(step);
  CheckTimeLimits(passed, step);
  ForgetRequests(step);
  ForgetFinishedJobs(step);
  if (step->now.monotonic - last_look_at_waiting_ < kLookAtWaiting) return;
  last_look_at_waiting_ = step->now.monotonic;
  // The expected ends of jobs have moved.
  if (head_.has_value()) step->schedule = true;
  ForgetMaintenanceOfGoneNodes(step);
  RefreshPool(step);
  GrowElasticJobs(step);
  TellWaiting(step);
}

void ClusterState::LoseNode(NodeEntry* node, Step* step) {
  const std::string& name = node->record.name();
  node->state = v1::Node::STATE_LOST;
  ++step->effects.node_losses;
  step->schedule = true;
  MarkDirty(node);
  const std::string reason = absl::StrCat("nodes/", name, " is lost: nothing was heard of it");
  RecordNodeEvent(*node, "NodeLost", "nothing was heard of it", "", step);
  // If it lives it must join again, with all that it holds.
  EndSession(node, "nothing was heard of this worker for too long; join again", true, step);
  const std::map<std::string, int> jobs = node->jobs;
  for (const auto& [job_name, slots] : jobs) {
    JobMachine* job = Find(job_name);
    Drive(job, step, [&](JobOutput* out) { job->LoseNode(name, reason, step->now, out); });
  }
}

void ClusterState::CheckTimeLimits(absl::Duration passed, Step* step) {
  const std::set<int64_t> waiting = waiting_after_failure_;
  for (int64_t sequence : waiting) {
    JobMachine* job = index_.Get(sequence);
    if (!job->WaitIsOver(step->now)) continue;
    Drive(job, step, [&](JobOutput* out) { job->EndWait(step->now, out); });
    waiting_after_failure_.erase(sequence);
    step->schedule = true;
  }
  std::vector<JobMachine*> live_jobs;
  for (const auto& [sequence, live] : live_.jobs()) live_jobs.push_back(Find(live.name));
  const bool some_are_silent = SomeAreSilent();
  for (JobMachine* job : live_jobs) {
    if (Frozen(*job, step->now)) {
      job->Forgive(passed);
      continue;
    }
    if (job->RunTimeUsedUp(step->now)) {
      Drive(job, step, [&](JobOutput* out) { job->EndRunTime(step->now, out); });
    }
    WatchForHang(job, some_are_silent, passed, step);
    for (const std::string& node : job->NodesOverdueToStop(step->now)) GiveUpNode(job, node, step);
    if (job->StartOverdue(step->now)) {
      Drive(job, step, [&](JobOutput* out) { job->FailStart(step->now, out); });
    }
  }
}

void ClusterState::GiveUpNode(JobMachine* job, const std::string& node_name, Step* step) {
  NodeEntry& node = Node(node_name);
  MarkDirty(&node);
  ++step->effects.node_losses;
  node.leftovers[{job->job().name(), job->job().generation()}] =
      Leftover{job->SlotsHeld(node_name), !job->record().started()};
  step->effects.log.push_back(LogLine{
      base::LogSeverity::kWarning,
      absl::StrCat("given up by ", job->job().name(), ", whose ranks it has not ended in time"), "",
      node_name});
  Drive(job, step, [&](JobOutput* out) { job->GiveUpNode(node_name, step->now, out); });
}

void ClusterState::ForgetRequests(Step* step) {
  while (!request_expiry_.empty() && request_expiry_.begin()->first <= step->now.wall) {
    const std::string id = request_expiry_.begin()->second;
    request_expiry_.erase(request_expiry_.begin());
    // It may have been used again since, for another job.
    auto it = requests_.find(id);
    if (it == requests_.end() || FromTimestamp(it->second.expire_time()) > step->now.wall) continue;
    step->effects.writes.requests.erase(id);
    step->effects.writes.expired_requests.insert(id);
    requests_.erase(it);
  }
}

}  // namespace muster::coordinator
