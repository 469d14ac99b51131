#include "coordinator/service/app.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/endpoint.h"
#include "common/base/log.h"
#include "common/base/random_id.h"
#include "common/base/status_macros.h"
#include "common/rpc/credentials.h"
#include "common/security/digest.h"
#include "coordinator/service/file_limit.h"

namespace muster::coordinator {
namespace {

constexpr absl::Duration kShutdownGrace = absl::Seconds(2);
// Between two looks for tokens that may be forgotten.
constexpr absl::Duration kForgetTokens = absl::Hours(1);

// Where a Prometheus beside the coordinator reaches it when it listens on every interface.
base::Endpoint Reachable(base::Endpoint endpoint) {
  if (endpoint.host.empty() || endpoint.host == "0.0.0.0") endpoint.host = "127.0.0.1";
  if (endpoint.host == "::") endpoint.host = "::1";
  return endpoint;
}

absl::StatusOr<base::Endpoint> ParseAllowed(absl::string_view flag, const std::string& address,
                                            const App::Options& options) {
  absl::StatusOr<base::Endpoint> endpoint = base::ParseEndpoint(address);
  if (!endpoint.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": ", endpoint.status().message()));
  }
  if (!endpoint->IsLoopback() && options.tls.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        flag, " ", address, " is not a loopback address and needs TLS: --tls-cert and --tls-key"));
  }
  return endpoint;
}

AccessControl::Options AccessOptions(const App::Options& options) {
  AccessControl::Options access = options.access;
  access.required = access.required || !options.tls.empty();
  return access;
}

}  // namespace

App::App(const Options& options, std::unique_ptr<StateStore> store, Snapshot stored,
         const base::Clock& clock, base::TimerQueue& timers)
    : clock_(clock),
      timers_(timers),
      tick_interval_(options.state.lease.heartbeat_interval / 4),
      store_(std::move(store)),
      access_(AccessOptions(options), stored.tokens, clock),
      state_(options.state, std::move(stored), Instant{clock.Now(), clock.Monotonic()}),
      state_thread_(StateThread::Deps{&state_, store_.get(), &clock, &sessions_, &watchers_,
                                      &metrics_, options.store_lost}),
      job_service_(&access_, JobServiceImpl::Deps{&state_thread_, &watchers_, &logs_, &access_,
                                                  &streams_, [] { return base::RandomUuid(); },
                                                  [] { return base::RandomHex(3); }}),
      node_service_(&access_, &state_thread_, &access_),
      worker_service_(&access_, WorkerServiceImpl::Deps{&state_thread_, &sessions_, &logs_,
                                                        &access_, options.max_sessions}),
      access_service_(&access_,
                      AccessServiceImpl::Deps{&access_, &state_thread_, &security::MakeSecret}),
      http_api_(
          HttpApi::Deps{&state_thread_, &registry_, &metrics_, &access_, !options.tls.empty()}) {}

absl::Status App::CheckAddresses(const Options& options) {
  MUSTER_RETURN_IF_ERROR(ParseAllowed("--listen", options.listen_address, options).status());
  return ParseAllowed("--http", options.http_address, options).status();
}

absl::StatusOr<std::unique_ptr<App>> App::Start(const Options& options,
                                                std::unique_ptr<StateStore> store,
                                                const base::Clock& clock,
                                                base::TimerQueue& timers) {
  MUSTER_ASSIGN_OR_RETURN(const base::Endpoint listen,
                          ParseAllowed("--listen", options.listen_address, options));
  MUSTER_ASSIGN_OR_RETURN(const base::Endpoint http,
                          ParseAllowed("--http", options.http_address, options));
  MUSTER_ASSIGN_OR_RETURN(Snapshot stored, store->Load());
  MUSTER_ASSIGN_OR_RETURN(const int sessions, RaiseFileLimit(options.max_sessions));
  if (sessions < options.max_sessions) {
    base::Log(base::LogSeverity::kInfo, "coordinator",
              "the limit of open files allows fewer workers; raise it (LimitNOFILE=, ulimit -n)",
              {{"workers", sessions}});
  }
  Options limited = options;
  limited.max_sessions = sessions;
  std::unique_ptr<App> app(new App(limited, std::move(store), std::move(stored), clock, timers));
  rpc::ServerOptions server;
  server.address = listen.ToString();
  server.services = {&app->job_service_, &app->node_service_, &app->worker_service_,
                     &app->access_service_};
  if (!options.tls.empty()) {
    MUSTER_ASSIGN_OR_RETURN(server.credentials, rpc::TlsServerCredentials(options.tls));
  }
  MUSTER_ASSIGN_OR_RETURN(app->grpc_server_, rpc::Server::Start(server));
  metrics::HttpProtection protection;
  protection.tls = options.tls;
  protection.refuse = [api = &app->http_api_](const std::string& pattern,
                                              const std::string& authorization) {
    return api->Refuse(pattern, authorization);
  };
  MUSTER_ASSIGN_OR_RETURN(app->http_server_,
                          metrics::HttpServer::Start(http, app->http_api_.Routes(), protection));
  app->http_api_.SetOwnAddress(Reachable(app->http_server_->endpoint()).ToString());
  absl::MutexLock lock(&app->ticker_->mutex);
  app->ScheduleTick();
  return app;
}

App::~App() {
  {
    absl::MutexLock lock(&ticker_->mutex);
    ticker_->stopped = true;
    timers_.Cancel(ticker_->timer);
  }
  // First, so that every call that waits for the state is answered before the servers wait for it.
  state_thread_.Stop();
  sessions_.CloseAll("the coordinator is stopping");
  watchers_.Stop();
  if (grpc_server_ != nullptr) grpc_server_->Shutdown(kShutdownGrace);
  http_server_.reset();
}

void App::ScheduleTick() {
  ticker_->timer = timers_.RunAt(clock_.Monotonic() + tick_interval_, [this, ticker = ticker_] {
    absl::MutexLock lock(&ticker->mutex);
    if (ticker->stopped) return;
    state_thread_.Post(TickCommand{});
    streams_.EndRevoked();
    if (clock_.Monotonic() - ticker->tokens_forgotten >= kForgetTokens) {
      ticker->tokens_forgotten = clock_.Monotonic();
      ForgetTokens();
    }
    ScheduleTick();
  });
}

void App::ForgetTokens() {
  Writes writes;
  writes.expired_tokens = access_.tokens().Forget();
  if (!writes.expired_tokens.empty()) {
    state_thread_.Store(std::move(writes), [](const absl::Status&) {});
  }
}

}  // namespace muster::coordinator
