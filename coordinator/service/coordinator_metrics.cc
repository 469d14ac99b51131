#include "coordinator/service/coordinator_metrics.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace muster::coordinator {
namespace {

metrics::Histogram::BucketBoundaries ExponentialBuckets(double first, double factor, int count) {
  metrics::Histogram::BucketBoundaries buckets;
  for (int i = 0; i < count; ++i, first *= factor) buckets.push_back(first);
  return buckets;
}

std::string StateLabel(const std::string& enum_name) {
  std::string label(absl::StripPrefix(enum_name, "STATE_"));
  absl::AsciiStrToLower(&label);
  return label;
}

std::string JobStateLabel(v1::Job::State state) {
  // A job that was just submitted comes from nowhere.
  if (state == v1::Job::STATE_UNSPECIFIED) return "none";
  return StateLabel(v1::Job::State_Name(state));
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(metrics::Registry* registry)
    : jobs_(registry->AddGauge("muster_coordinator_jobs", "Jobs in each state.")),
      nodes_(registry->AddGauge("muster_coordinator_nodes", "Nodes in each state.")),
      heartbeat_age_(registry->AddGauge("muster_coordinator_heartbeat_age_seconds",
                                        "Time since the node was last heard.")),
      transitions_(registry->AddCounter("muster_coordinator_job_state_transitions_total",
                                        "Changes of jobs' states.")),
      straggler_score_(registry->AddGauge(
          "muster_job_rank_straggler_score",
          "Time of the rank's own work in a step over that of the median rank.")),
      hangs_(registry->AddCounter("muster_job_hangs_total",
                                  "Generations that were ended because no rank advanced, by what "
                                  "was found to be the cause.")),
      node_losses_(
          registry
              ->AddCounter("muster_coordinator_node_losses_total",
                           "Nodes given up: nothing was heard of them, or they did not end a "
                           "job's ranks in time.")
              .Add({})),
      queue_wait_(registry
                      ->AddHistogram("muster_coordinator_queue_wait_seconds",
                                     "Time from submission, or from the end of a generation, to "
                                     "placement.")
                      .Add({}, ExponentialBuckets(0.01, 4, 10))),
      commit_duration_(registry
                           ->AddHistogram("muster_coordinator_store_commit_duration_seconds",
                                          "Time of one commit to the store.")
                           .Add({}, ExponentialBuckets(0.0005, 2, 14))) {
  registry
      ->AddGauge("muster_coordinator_leader", "1 on the coordinator that leads, 0 on a standby.")
      .Add({})
      .Set(1);
  for (const HangCause cause : {HangCause::kUnknown, HangCause::kProcess, HangCause::kLink,
                                HangCause::kData, HangCause::kBehind}) {
    hangs_.Add({{"cause", CauseName(cause)}});
  }
  using State = v1::Job::State;
  for (auto [from, to] : std::initializer_list<std::pair<State, State>>{
           {v1::Job::STATE_UNSPECIFIED, v1::Job::STATE_QUEUED},
           {v1::Job::STATE_QUEUED, v1::Job::STATE_STARTING},
           {v1::Job::STATE_STARTING, v1::Job::STATE_RUNNING},
           {v1::Job::STATE_RUNNING, v1::Job::STATE_SUCCEEDED},
           {v1::Job::STATE_STARTING, v1::Job::STATE_RESTARTING},
           {v1::Job::STATE_RUNNING, v1::Job::STATE_RESTARTING},
           {v1::Job::STATE_RESTARTING, v1::Job::STATE_QUEUED},
           {v1::Job::STATE_RESTARTING, v1::Job::STATE_FAILED}}) {
    transitions_.Add({{"from", JobStateLabel(from)}, {"to", JobStateLabel(to)}});
  }
}

void CoordinatorMetrics::Committed(absl::Duration commit_time) {
  commit_duration_.Observe(absl::ToDoubleSeconds(commit_time));
}

void CoordinatorMetrics::Applied(const Effects& effects) {
  for (const StateChange& change : effects.state_changes) {
    transitions_.Add({{"from", JobStateLabel(change.from)}, {"to", JobStateLabel(change.to)}})
        .Increment();
  }
  for (absl::Duration wait : effects.queue_waits) queue_wait_.Observe(absl::ToDoubleSeconds(wait));
  node_losses_.Increment(effects.node_losses);
  for (const std::string& cause : effects.hangs) hangs_.Add({{"cause", cause}}).Increment();
}

void CoordinatorMetrics::Refresh(const ClusterState& state, Instant now) {
  for (const auto& [job_state, count] : state.CountJobs()) {
    jobs_.Add({{"state", JobStateLabel(job_state)}}).Set(count);
  }
  for (const auto& [node_state, count] : state.CountNodes()) {
    nodes_.Add({{"state", StateLabel(v1::Node::State_Name(node_state))}}).Set(count);
  }
  ShowStragglers(state);
  const std::map<std::string, absl::Duration> ages = state.HeartbeatAges(now);
  for (auto it = heartbeat_age_by_node_.begin(); it != heartbeat_age_by_node_.end();) {
    if (ages.count(it->first) > 0) {
      ++it;
      continue;
    }
    heartbeat_age_.Remove(it->second);
    it = heartbeat_age_by_node_.erase(it);
  }
  for (const auto& [node, age] : ages) {
    metrics::Gauge*& gauge = heartbeat_age_by_node_[node];
    if (gauge == nullptr) gauge = &heartbeat_age_.Add({{"node", node}});
    gauge->Set(absl::ToDoubleSeconds(age));
  }
}

void CoordinatorMetrics::ShowStragglers(const ClusterState& state) {
  std::map<metrics::Labels, metrics::Gauge*> shown;
  for (const ClusterState::RankScore& rank : state.RankScores()) {
    const metrics::Labels labels = {{"muster_job", rank.job},
                                    {"rank", absl::StrCat(rank.rank)},
                                    {"node", std::string(absl::StripPrefix(rank.node, "nodes/"))}};
    metrics::Gauge& gauge = straggler_score_.Add(labels);
    gauge.Set(rank.score);
    shown[labels] = &gauge;
    straggler_scores_.erase(labels);
  }
  for (const auto& [labels, gauge] : straggler_scores_) straggler_score_.Remove(gauge);
  straggler_scores_ = std::move(shown);
}

}  // namespace muster::coordinator
