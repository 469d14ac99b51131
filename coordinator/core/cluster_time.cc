// The part of ClusterState that lets time pass.
#include <set>

#include "absl/strings/str_cat.h"

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {

bool ClusterState::LeaseExpired(const NodeEntry& node, Instant now) const {
  const std::string& name = node.record.name();
  absl::Duration last_advance = -absl::InfiniteDuration();
  absl::Duration interval;
  for (const std::string& job_name : node.jobs) {
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
    for (const std::string& name : LiveJobs()) Find(name)->Forgive(pause);
  }
  last_tick_ = step->now.monotonic;
  for (auto& [name, node] : nodes_) {
    if (node.state == v1::Node::STATE_READY && leases_.HeartbeatMissed(name, step->now.monotonic)) {
      node.state = v1::Node::STATE_UNREACHABLE;
      step->schedule = true;
      step->effects.log.push_back(
          LogLine{base::LogSeverity::kWarning, "node is unreachable: no heartbeat", "", name});
    }
    if (node.state == v1::Node::STATE_UNREACHABLE && LeaseExpired(node, step->now)) {
      LoseNode(&node, step);
    }
  }
  CheckTimeLimits(step);
  ForgetRequests(step);
}

void ClusterState::LoseNode(NodeEntry* node, Step* step) {
  const std::string& name = node->record.name();
  node->state = v1::Node::STATE_LOST;
  ++step->effects.node_losses;
  step->schedule = true;
  const std::string reason = absl::StrCat("nodes/", name, " is lost: nothing was heard of it");
  step->effects.log.push_back(LogLine{base::LogSeverity::kWarning, reason, "", name});
  // If it lives it must join again, with all that it holds.
  EndSession(node, "nothing was heard of this worker for too long; join again", true, step);
  const std::set<std::string> names = node->jobs;
  for (const std::string& job_name : names) {
    JobMachine* job = Find(job_name);
    Drive(job, step, [&](JobOutput* out) { job->LoseNode(name, reason, step->now, out); });
  }
}

std::set<std::string> ClusterState::LiveJobs() const {
  std::set<std::string> names;
  for (const auto& [name, node] : nodes_) names.insert(node.jobs.begin(), node.jobs.end());
  return names;
}

void ClusterState::CheckTimeLimits(Step* step) {
  for (const auto& [sequence, name] : queue_) {
    JobMachine* job = Find(name);
    if (!job->WaitIsOver(step->now)) continue;
    Drive(job, step, [&](JobOutput* out) { job->EndWait(step->now, out); });
    step->schedule = true;
  }
  for (const std::string& name : LiveJobs()) {
    JobMachine* job = Find(name);
    for (const std::string& node : job->NodesOverdueToStop(step->now)) GiveUpNode(job, node, step);
    if (job->StartOverdue(step->now)) {
      Drive(job, step, [&](JobOutput* out) { job->FailStart(step->now, out); });
    }
  }
}

void ClusterState::GiveUpNode(JobMachine* job, const std::string& node_name, Step* step) {
  NodeEntry& node = nodes_[node_name];
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
  for (auto it = requests_.begin(); it != requests_.end();) {
    if (FromTimestamp(it->second.expire_time()) > step->now.wall) {
      ++it;
      continue;
    }
    step->effects.writes.expired_requests.insert(it->first);
    it = requests_.erase(it);
  }
}

}  // namespace muster::coordinator
