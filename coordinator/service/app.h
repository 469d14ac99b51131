#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/base/clock.h"
#include "common/base/timer_queue.h"
#include "common/metrics/http_server.h"
#include "common/metrics/registry.h"
#include "common/rpc/server.h"
#include "common/security/tls_files.h"
#include "coordinator/core/cluster_state.h"
#include "coordinator/service/access_control.h"
#include "coordinator/service/access_service.h"
#include "coordinator/service/coordinator_metrics.h"
#include "coordinator/service/guarded_service.h"
#include "coordinator/service/http_api.h"
#include "coordinator/service/job_service.h"
#include "coordinator/service/job_watchers.h"
#include "coordinator/service/log_relay.h"
#include "coordinator/service/node_service.h"
#include "coordinator/service/session_registry.h"
#include "coordinator/service/state_thread.h"
#include "coordinator/service/worker_service.h"
#include "coordinator/store/state_store.h"

namespace muster::coordinator {

// A running coordinator: the stored state, the thread that owns it, and the servers around them.
class App {
 public:
  struct Options {
    // "ip:port"; port 0: any free one.
    std::string listen_address = "127.0.0.1:0";
    std::string http_address = "127.0.0.1:0";
    // The coordinator's certificate and key, for gRPC and HTTP alike, and the CA of its clients'
    // certificates, if they must show any. With a certificate every caller needs a token too;
    // without one there is neither encryption nor authentication, which is allowed on loopback
    // only.
    security::TlsFiles tls;
    // access.required holds with TLS in any case.
    AccessControl::Options access;
    // Fewer where the limit of open files does not allow as many.
    int max_sessions = 16'000;
    ClusterState::Options state;
    // Called once, from a thread of the app's, when another coordinator has taken the store: then
    // end this object. May be null.
    std::function<void()> store_lost = nullptr;
  };

  // InvalidArgument for an address that is none, or that is beyond loopback without TLS.
  static absl::Status CheckAddresses(const Options& options);
  // Takes up what the store holds and serves. Unavailable when an address cannot be bound;
  // InvalidArgument for options, TLS files among them, that cannot be used; FailedPrecondition when
  // the limit of open files leaves no room for workers.
  static absl::StatusOr<std::unique_ptr<App>> Start(const Options& options,
                                                    std::unique_ptr<StateStore> store,
                                                    const base::Clock& clock,
                                                    base::TimerQueue& timers);
  // Tells workers and watchers, finishes what has been accepted, closes the servers.
  ~App();
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  // "ip:port", with the ports that were chosen.
  std::string grpc_address() const { return grpc_server_->address(); }
  std::string http_address() const { return http_server_->endpoint().ToString(); }

 private:
  App(const Options& options, std::unique_ptr<StateStore> store, Snapshot stored,
      const base::Clock& clock, base::TimerQueue& timers);
  void ScheduleTick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(ticker_->mutex);
  void ForgetTokens();

  // In order of dependency: later members use earlier ones.
  const base::Clock& clock_;
  base::TimerQueue& timers_;
  const absl::Duration tick_interval_;
  std::unique_ptr<StateStore> store_;
  AccessControl access_;
  OpenStreams streams_{access_};
  ClusterState state_;
  metrics::Registry registry_{"muster-coordinator"};
  CoordinatorMetrics metrics_{&registry_};
  SessionRegistry sessions_;
  JobWatchers watchers_;
  LogRelay logs_{&sessions_};
  StateThread state_thread_;
  Guarded<JobServiceImpl> job_service_;
  Guarded<NodeServiceImpl> node_service_;
  Guarded<WorkerServiceImpl> worker_service_;
  Guarded<AccessServiceImpl> access_service_;
  HttpApi http_api_;
  std::unique_ptr<rpc::Server> grpc_server_;
  std::unique_ptr<metrics::HttpServer> http_server_;

  // Outlives the app in a timer that has begun to run.
  struct Ticker {
    absl::Mutex mutex;
    bool stopped ABSL_GUARDED_BY(mutex) = false;
    base::TimerId timer ABSL_GUARDED_BY(mutex) = 0;
    // Of Clock::Monotonic().
    absl::Duration tokens_forgotten ABSL_GUARDED_BY(mutex) = -absl::InfiniteDuration();
  };
  const std::shared_ptr<Ticker> ticker_ = std::make_shared<Ticker>();
};

}  // namespace muster::coordinator
