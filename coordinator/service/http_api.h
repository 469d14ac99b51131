#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "common/metrics/http_server.h"
#include "common/metrics/registry.h"
#include "coordinator/service/access_control.h"
#include "coordinator/service/coordinator_metrics.h"
#include "coordinator/service/state_thread.h"

namespace muster::coordinator {

// The coordinator's web side, read only:
//   /                    a page with jobs and nodes
//   /metrics, /healthz
//   /v1/sd/prometheus    targets for Prometheus's http_sd: this coordinator and every worker that
//                        is not lost
//   /v1/jobs, /v1/jobs/{job}, /v1/nodes   proto3 JSON of ListJobsResponse, Job, ListNodesResponse;
//                        lists take page_size and page_token
class HttpApi {
 public:
  struct Deps {
    StateThread* state;
    const metrics::Registry* registry;
    CoordinatorMetrics* metrics;
    AccessControl* access;
    // Serves TLS; so do, then, the workers beyond loopback.
    bool tls = false;
  };
  explicit HttpApi(const Deps& deps) : deps_(deps) {}

  // The routes call this object, which must outlive the server.
  std::vector<metrics::HttpServer::Route> Routes();

  // An answer for those who may not see the route: 401, 403 or 429.
  std::optional<metrics::HttpResponse> Refuse(const std::string& pattern,
                                              const std::string& authorization);

  // "ip:port" that this coordinator's own /metrics is served on. Not among the targets before.
  void SetOwnAddress(const std::string& address);

 private:
  metrics::HttpResponse Metrics();
  metrics::HttpResponse Targets();
  metrics::HttpResponse Jobs(const metrics::HttpRequest& request);
  metrics::HttpResponse Job(const metrics::HttpRequest& request);
  metrics::HttpResponse Nodes(const metrics::HttpRequest& request);
  metrics::HttpResponse StatusPage();

  const Deps deps_;
  absl::Mutex mutex_;
  std::string own_address_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::coordinator
