#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/endpoint.h"
#include "common/metrics/http_server.h"
#include "common/metrics/registry.h"
#include "coordinator/store/leader_lease.h"

namespace muster::coordinator {

// A coordinator that waits for its turn. Its gRPC port is closed, so that workers and people go on
// to the next address of their list; over HTTP it says who leads:
//   /healthz   200 "standby; 10.0.0.4:7070 leads"
//   /metrics   muster_coordinator_leader 0, and nothing of the cluster
//   all else   503 with the leader's address
class LeaderStandby {
 public:
  struct Options {
    base::Endpoint http;
    metrics::HttpProtection protection;
    absl::Duration poll_interval = absl::Milliseconds(250);
  };
  // Waits that long; false: give up.
  using Pause = std::function<bool(absl::Duration)>;

  LeaderStandby(Options options, LeaderLease* lease);

  // True when the lease is ours, false when `pause` said so. While the store does not answer it
  // goes on waiting. FailedPrecondition when the store refuses us for good; errors of the HTTP
  // server as they are. The HTTP server runs only while this waits.
  absl::StatusOr<bool> WaitUntilLeading(const Pause& pause);

 private:
  absl::Status Serve();
  // Notes and logs changes.
  void SetLeader(const std::string& leader);
  std::string Text() const;

  const Options options_;
  LeaderLease* const lease_;
  metrics::Registry registry_{"muster-coordinator"};
  mutable absl::Mutex mutex_;
  // Empty: not known.
  std::string leader_ ABSL_GUARDED_BY(mutex_);
  // Last, so that its handlers end first.
  std::unique_ptr<metrics::HttpServer> server_;
};

}  // namespace muster::coordinator
