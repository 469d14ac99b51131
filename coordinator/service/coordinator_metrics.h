#pragma once

#include <map>
#include <string>

#include "absl/time/time.h"

#include "common/metrics/registry.h"
#include "coordinator/core/cluster_state.h"
#include "coordinator/core/effects.h"
#include "coordinator/service/state_thread.h"

namespace muster::coordinator {

// The coordinator's metric families. Counters follow the effects; gauges are filled by Refresh
// before the registry is exposed. Applied, Committed and Refresh are called on the state thread.
class CoordinatorMetrics : public EffectsObserver {
 public:
  explicit CoordinatorMetrics(metrics::Registry* registry);

  void Committed(absl::Duration commit_time) override;
  void Applied(const Effects& effects) override;
  void Refresh(const ClusterState& state, Instant now);

 private:
  void ShowStragglers(const ClusterState& state);

  prometheus::Family<metrics::Gauge>& jobs_;
  prometheus::Family<metrics::Gauge>& nodes_;
  prometheus::Family<metrics::Gauge>& heartbeat_age_;
  prometheus::Family<metrics::Counter>& transitions_;
  prometheus::Family<metrics::Gauge>& straggler_score_;
  prometheus::Family<metrics::Counter>& hangs_;
  metrics::Counter& node_losses_;
  metrics::Histogram& queue_wait_;
  metrics::Histogram& commit_duration_;
  std::map<std::string, metrics::Gauge*> heartbeat_age_by_node_;
  // By job, rank and node.
  std::map<metrics::Labels, metrics::Gauge*> straggler_scores_;
};

}  // namespace muster::coordinator
