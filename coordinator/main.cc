// muster-coordinator: see `muster-coordinator --help`.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "CLI/CLI.hpp"
#include "common/base/clock.h"
#include "common/base/endpoint.h"
#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/timer_queue.h"
#include "coordinator/create_token.h"
#include "coordinator/service/app.h"
#include "coordinator/service/heap.h"
#include "coordinator/service/leader_keeper.h"
#include "coordinator/service/leader_standby.h"
#include "coordinator/store/postgres_connection.h"
#include "coordinator/store/postgres_leader_lease.h"
#include "coordinator/store/postgres_state_store.h"
#include "coordinator/store/sqlite_state_store.h"

namespace {

using muster::coordinator::App;

constexpr char kExamples[] = R"(
Examples:
  muster-coordinator --store ~/muster/coordinator.db
  muster-coordinator --listen 127.0.0.1:7070 --http 127.0.0.1:7071 --store coordinator.db
  muster-coordinator --listen 127.0.0.1:0 --http 127.0.0.1:0 --store c.db --address-file c.addr
  muster-coordinator --store postgresql://muster@db.internal/muster   (on two machines: one leads,
                                                  the other stands by and takes over within 5 s)

Plaintext without authentication is for loopback addresses. With --tls-cert and --tls-key gRPC and
HTTP are encrypted and every caller needs a token, the first one from
  muster-coordinator create-token --store coordinator.db --role admin --user alice
(docs/operations/security.md).)";

struct Flags {
  std::string listen = "127.0.0.1:7070";
  std::string http = "127.0.0.1:7071";
  std::string store;
  std::string address_file;
  std::string heartbeat_interval = "1s";
  std::string lost_after = "3s";
  std::string recovery_grace = "15s";
  std::string keep_finished_for = "720h";
  int keep_finished = 10'000;
  std::string tls_certificate;
  std::string tls_key;
  std::string tls_client_ca;
  bool insecure_network = false;
};

std::string CheckDuration(const std::string& text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration <= absl::ZeroDuration()) {
    return absl::StrCat("'", text, "' is no duration; write for example 500ms, 3s or 1m");
  }
  return "";
}

absl::Duration ToDuration(const std::string& text) {
  absl::Duration duration;
  absl::ParseDuration(text, &duration);
  return duration;
}

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "muster-coordinator: %s\n", std::string(status.message()).c_str());
  return code;
}

int Fail(const absl::Status& status) {
  return Fail(status, absl::IsInvalidArgument(status) ? muster::base::kExitUsage
                                                      : muster::base::kExitUnavailable);
}

struct Surroundings {
  const muster::base::Clock& clock;
  muster::base::TimerQueue& timers;
  // SIGTERM and SIGINT to stop, kLost.
  const sigset_t& signals;
};

// To this process by itself, when another coordinator leads.
constexpr int kLost = SIGUSR1;

// Where workers and people reach what listens on `address`.
std::string Reachable(const std::string& address) {
  const absl::StatusOr<muster::base::Endpoint> endpoint = muster::base::ParseEndpoint(address);
  if (!endpoint.ok() || (endpoint->host != "0.0.0.0" && endpoint->host != "::")) return address;
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return muster::base::Endpoint{host, endpoint->port}.ToString();
}

// Serves until a signal comes, and says which. `keeper` is null where nobody else can lead.
absl::StatusOr<int> Serve(const App::Options& options, const Flags& flags,
                          std::unique_ptr<muster::coordinator::StateStore> store,
                          const Surroundings& around, muster::coordinator::LeaderKeeper* keeper) {
  MUSTER_ASSIGN_OR_RETURN(const std::unique_ptr<App> app,
                          App::Start(options, std::move(store), around.clock, around.timers));
  if (keeper != nullptr) keeper->Announce(Reachable(app->grpc_address()));
  std::printf("muster-coordinator: listening on %s (gRPC), %s (HTTP)\n",
              app->grpc_address().c_str(), app->http_address().c_str());
  std::fflush(stdout);
  // Last: whoever waits for it may look at what was printed.
  if (!flags.address_file.empty()) {
    MUSTER_RETURN_IF_ERROR(muster::base::WriteFileAtomically(
        flags.address_file, absl::StrCat(app->grpc_address(), "\n", app->http_address(), "\n")));
  }
  int signal = 0;
  sigwait(&around.signals, &signal);
  muster::base::Log(muster::base::LogSeverity::kInfo, "coordinator",
                    signal == kLost ? "stepping down" : "stopping", {{"signal", signal}});
  return signal;
}

// Stands by until this process leads, serves while it does, and stands by again.
int ServeWhileLeading(App::Options options, const Flags& flags, const Surroundings& around) {
  using muster::coordinator::LeaderKeeper;
  using muster::coordinator::LeaderStandby;
  using muster::coordinator::PostgresLeaderLease;
  using muster::coordinator::PostgresStateStore;
  // Not only when its turn comes.
  const auto listen = muster::base::ParseEndpoint(flags.listen);
  const auto http = muster::base::ParseEndpoint(flags.http);
  if (!listen.ok()) return Fail(listen.status());
  if (!http.ok()) return Fail(http.status());
  if (const absl::Status free = muster::base::TryListen(*listen); !free.ok()) return Fail(free);

  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  PostgresLeaderLease::Options lease_options;
  lease_options.url = flags.store;
  lease_options.holder = absl::StrCat(host, " pid ", getpid());
  auto lease = PostgresLeaderLease::Create(lease_options, around.clock);
  if (!lease.ok()) return Fail(lease.status());
  LeaderStandby::Options standby_options;
  standby_options.http = *http;
  standby_options.protection.tls = options.tls;
  standby_options.protection.allow_plaintext_network = options.insecure_network;
  const auto pause = [&](absl::Duration duration) {
    const timespec wait = absl::ToTimespec(duration);
    const int signal = sigtimedwait(&around.signals, nullptr, &wait);
    return signal != SIGTERM && signal != SIGINT;
  };
  const auto lost = [] { kill(getpid(), kLost); };
  options.store_lost = lost;
  while (true) {
    const absl::StatusOr<bool> leading =
        LeaderStandby(standby_options, lease->get()).WaitUntilLeading(pause);
    if (!leading.ok()) return Fail(leading.status());
    if (!*leading) return muster::base::kExitCompleted;
    auto store = PostgresStateStore::Create(flags.store, lease->get());
    if (!store.ok()) return Fail(store.status());
    // Of the last time, if two threads found out.
    sigset_t stale;
    sigemptyset(&stale);
    sigaddset(&stale, kLost);
    const timespec at_once{};
    while (sigtimedwait(&stale, nullptr, &at_once) == kLost) continue;
    LeaderKeeper keeper({}, lease->get(), lost);
    const absl::StatusOr<int> signal = Serve(options, flags, *std::move(store), around, &keeper);
    if (!signal.ok()) return Fail(signal.status());
    if (*signal != kLost) return muster::base::kExitCompleted;
  }
}

int Run(const Flags& flags, const sigset_t& signals) {
  App::Options options;
  options.listen_address = flags.listen;
  options.http_address = flags.http;
  options.insecure_network = flags.insecure_network;
  options.tls = {flags.tls_certificate, flags.tls_key, flags.tls_client_ca};
  if (options.tls.certificate.empty() && !options.tls.empty()) {
    return Fail(absl::InvalidArgumentError("--tls-key and --tls-client-ca need --tls-cert"));
  }
  options.state.lease.heartbeat_interval = ToDuration(flags.heartbeat_interval);
  options.state.lease.lost_after = ToDuration(flags.lost_after);
  options.state.recovery_grace = ToDuration(flags.recovery_grace);
  options.state.keep_finished_for = ToDuration(flags.keep_finished_for);
  options.state.keep_finished = static_cast<size_t>(flags.keep_finished);
  if (options.state.lease.lost_after < 2 * options.state.lease.heartbeat_interval) {
    return Fail(
        absl::InvalidArgumentError("--lost-after must be at least twice --heartbeat-interval"),
        muster::base::kExitUsage);
  }
  const muster::base::SystemClock clock;
  muster::base::ThreadTimerQueue timers(clock);
  const Surroundings around{clock, timers, signals};
  if (muster::coordinator::IsPostgresUrl(flags.store)) {
    return ServeWhileLeading(options, flags, around);
  }
  auto store = muster::coordinator::SqliteStateStore::Open(
      std::string(absl::StripPrefix(flags.store, "sqlite:")));
  if (!store.ok()) return Fail(store.status(), muster::base::kExitUnavailable);
  const absl::StatusOr<int> signal = Serve(options, flags, *std::move(store), around, nullptr);
  return signal.ok() ? static_cast<int>(muster::base::kExitCompleted) : Fail(signal.status());
}

}  // namespace

int main(int argc, char** argv) {
  // Debian's Abseil looks for deadlocks at each lock, gRPC's among them, which costs more than all
  // that happens under them. Tests keep it.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  muster::coordinator::KeepFreedMemory();
  // Before any thread is started, so that all of them leave these signals to sigwait.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, kLost}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  // gRPC's own log repeats, over many lines, what our error says in one. Before its first use.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);

  Flags flags;
  CLI::App parser("Takes training jobs and places them on workers.", "muster-coordinator");
  parser.footer(kExamples);
  parser.option_defaults()->always_capture_default();
  parser.add_option("--listen", flags.listen, "IP:PORT of the gRPC API; port 0: any free one");
  parser.add_option("--http", flags.http,
                    "IP:PORT of the web page, JSON, /metrics and Prometheus's service discovery");
  parser
      .add_option("--store", flags.store,
                  "Keeps jobs and nodes: a file (SQLite), or postgresql://USER@HOST/DATABASE")
      ->required();
  parser.add_option("--address-file", flags.address_file,
                    "Written with the gRPC and the HTTP address, one a line, when both serve");
  parser.add_option("--heartbeat-interval", flags.heartbeat_interval, "How often workers report")
      ->check(CheckDuration);
  parser
      .add_option("--lost-after", flags.lost_after,
                  "Silence after which a worker's ranks count as dead")
      ->check(CheckDuration);
  parser
      .add_option("--recovery-grace", flags.recovery_grace,
                  "Time for known workers to come back after a start of the coordinator")
      ->check(CheckDuration);
  parser.add_option("--tls-cert", flags.tls_certificate,
                    "This coordinator's certificate (PEM), for gRPC and HTTP; with it every caller "
                    "needs a token. Read again when it changes, like the others");
  parser.add_option("--tls-key", flags.tls_key, "Its private key (PEM)");
  parser.add_option("--tls-client-ca", flags.tls_client_ca,
                    "Callers must show a certificate of this CA (PEM) as well: mutual TLS");
  parser
      .add_option("--keep-finished-for", flags.keep_finished_for,
                  "How long a job that has ended stays in the lists, with its events")
      ->check(CheckDuration);
  parser
      .add_option("--keep-finished", flags.keep_finished,
                  "At most so many jobs that have ended; the oldest go first")
      ->check(CLI::NonNegativeNumber);
  parser.add_flag("--insecure-network", flags.insecure_network,
                  "Allow plaintext without authentication on other addresses than loopback");
  parser.set_version_flag("--version", MUSTER_VERSION);
  muster::v1::Token token;
  std::string role = "admin";
  CLI::App* create_token = parser.add_subcommand(
      "create-token", "Make a token in the store of a coordinator that does not run, and print it");
  create_token->fallthrough();
  create_token->footer(
      "Example:\n  muster-coordinator create-token --store coordinator.db --role admin --user "
      "alice");
  create_token->add_option("--role", role, "admin, submit or view")
      ->capture_default_str()
      ->check(CLI::IsMember({"admin", "submit", "view"}));
  create_token->add_option("--user", *token.mutable_subject(), "Whom it is for")->required();
  try {
    parser.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = parser.exit(error);
    return code == 0 ? muster::base::kExitCompleted : muster::base::kExitUsage;
  }
  if (create_token->parsed()) {
    muster::v1::Token::Role parsed = muster::v1::Token::ROLE_UNSPECIFIED;
    muster::v1::Token::Role_Parse(absl::StrCat("ROLE_", absl::AsciiStrToUpper(role)), &parsed);
    token.set_role(parsed);
    const absl::StatusOr<std::string> secret =
        muster::coordinator::CreateTokenInStore(flags.store, token);
    if (!secret.ok()) return Fail(secret.status());
    std::printf("%s\n", secret->c_str());
    return muster::base::kExitCompleted;
  }
  return Run(flags, signals);
}
