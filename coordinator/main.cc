// muster-coordinator: see `muster-coordinator --help`.
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "CLI/CLI.hpp"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/timer_queue.h"
#include "coordinator/service/app.h"
#include "coordinator/store/sqlite_state_store.h"

namespace {

using muster::coordinator::App;

constexpr char kExamples[] = R"(
Examples:
  muster-coordinator --store ~/muster/coordinator.db
  muster-coordinator --listen 127.0.0.1:7070 --http 127.0.0.1:7071 --store coordinator.db
  muster-coordinator --listen 127.0.0.1:0 --http 127.0.0.1:0 --store c.db --address-file c.addr

The API has no encryption or authentication of its own yet, so it listens on loopback only, unless
--insecure-network says that the network itself is trusted.)";

struct Flags {
  std::string listen = "127.0.0.1:7070";
  std::string http = "127.0.0.1:7071";
  std::string store;
  std::string address_file;
  std::string heartbeat_interval = "1s";
  std::string lost_after = "3s";
  std::string recovery_grace = "15s";
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

int Run(const Flags& flags, const sigset_t& stop_signals) {
  App::Options options;
  options.listen_address = flags.listen;
  options.http_address = flags.http;
  options.insecure_network = flags.insecure_network;
  options.state.lease.heartbeat_interval = ToDuration(flags.heartbeat_interval);
  options.state.lease.lost_after = ToDuration(flags.lost_after);
  options.state.recovery_grace = ToDuration(flags.recovery_grace);
  if (options.state.lease.lost_after < 2 * options.state.lease.heartbeat_interval) {
    return Fail(
        absl::InvalidArgumentError("--lost-after must be at least twice --heartbeat-interval"),
        muster::base::kExitUsage);
  }
  auto store = muster::coordinator::SqliteStateStore::Open(flags.store);
  if (!store.ok()) return Fail(store.status(), muster::base::kExitUnavailable);
  const muster::base::SystemClock clock;
  muster::base::ThreadTimerQueue timers(clock);
  auto app = App::Start(options, *std::move(store), clock, timers);
  if (!app.ok()) {
    return Fail(app.status(), absl::IsInvalidArgument(app.status())
                                  ? muster::base::kExitUsage
                                  : muster::base::kExitUnavailable);
  }
  if (!flags.address_file.empty()) {
    const absl::Status written = muster::base::WriteFileAtomically(
        flags.address_file,
        absl::StrCat((*app)->grpc_address(), "\n", (*app)->http_address(), "\n"));
    if (!written.ok()) return Fail(written, muster::base::kExitUnavailable);
  }
  std::printf("muster-coordinator: listening on %s (gRPC), %s (HTTP)\n",
              (*app)->grpc_address().c_str(), (*app)->http_address().c_str());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&stop_signals, &signal);
  muster::base::Log(muster::base::LogSeverity::kInfo, "coordinator", "stopping",
                    {{"signal", signal}});
  return muster::base::kExitCompleted;
}

}  // namespace

int main(int argc, char** argv) {
  // Before any thread is started, so that all of them leave these signals to sigwait.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
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
  parser.add_option("--store", flags.store, "File (SQLite) that keeps jobs and nodes")->required();
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
  parser.add_flag("--insecure-network", flags.insecure_network,
                  "Allow plaintext without authentication on other addresses than loopback");
  parser.set_version_flag("--version", MUSTER_VERSION);
  try {
    parser.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = parser.exit(error);
    return code == 0 ? muster::base::kExitCompleted : muster::base::kExitUsage;
  }
  return Run(flags, stop_signals);
}
