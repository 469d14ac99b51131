#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "CLI/CLI.hpp"
#include "common/base/exit_codes.h"
#include "common/base/log.h"
#include "common/security/secret_file.h"
#include "worker/daemon/inventory.h"
#include "worker/daemon/scheduled_events_poller.h"
#include "worker/daemon/shim.h"
#include "worker/daemon/tcp_socket.h"
#include "worker/daemon/worker.h"

namespace muster::worker {
namespace {

constexpr char kDescription[] =
    "Joins a coordinator and runs this node's share of its training jobs.";
constexpr char kFooter[] =
    "SIGTERM and SIGINT end the node's trainers (they write a checkpoint and stop; after the "
    "job's\n"
    "grace period they are killed), unless --keep-trainers is given. Killed by SIGKILL, or ended "
    "with\n"
    "--keep-trainers, a worker leaves its trainers running, and one started on the same "
    "--state-dir\n"
    "takes them over.\n\n"
    "A slot's trainer gets cores / slots CPU threads (slots of all workers on the machine); "
    "OMP_NUM_THREADS, where it is set, says "
    "otherwise.\n\n"
    "Examples (beyond loopback a worker needs the coordinator's CA, and to join a token from\n"
    "\"muster node-token create\"):\n"
    "  muster-worker --coordinator 127.0.0.1:7070 --name w1 --state-dir w1 --data-root data\n"
    "  muster-worker --coordinator 10.0.0.4:7070,10.0.0.5:7070 --tls-ca ca.pem \\\n"
    "    --join-token-file join.token --name gpu-7 --slots 8 --state-dir /mnt/muster \\\n"
    "    --data-root /data --data-root /models --label zone=1 --label disk=nvme\n";

std::filesystem::path ThisProgram() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::filesystem::path("/proc/self/exe") : program;
}

int ThreadsFromEnvironment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  int threads = 0;
  return text != nullptr && absl::SimpleAtoi(text, &threads) && threads > 0 ? threads : 0;
}

std::string CheckName(const std::string& name) {
  const bool plain =
      !name.empty() && name.size() <= 63 &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos &&
      name.front() != '-' && name.back() != '-';
  return plain ? "" : "must be of a-z, 0-9 and '-', at most 63, not begin or end with '-'";
}

std::string CheckAddresses(const std::string& addresses) {
  for (absl::string_view address : absl::StrSplit(addresses, ',')) {
    const absl::Status status = SplitAddress(std::string(address)).status();
    if (!status.ok()) return std::string(status.message());
  }
  return "";
}

// "zone=1": words that a job's resources.node_labels can name.
std::string CheckLabel(const std::string& label) {
  const size_t equals = label.find('=');
  const auto plain = [](absl::string_view text) {
    return text.size() <= 63 && std::all_of(text.begin(), text.end(), [](char c) {
             return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                    absl::StrContains("-_./", c);
           });
  };
  const bool good = equals != std::string::npos && equals > 0 && plain(label.substr(0, equals)) &&
                    plain(label.substr(equals + 1));
  return good ? "" : "must be NAME=VALUE, each of letters, digits, '-', '_', '.', '/', at most 63";
}

std::string CheckDuration(const std::string& text) {
  absl::Duration duration;
  return absl::ParseDuration(text, &duration) && duration > absl::ZeroDuration()
             ? ""
             : "must be a duration, for example 90m or 720h";
}

std::string CheckScheduledEvents(const std::string& url) {
  return url == "off" ? "" : std::string(ScheduledEventsPoller::CheckUrl(url).message());
}

// Empty without one.
absl::StatusOr<std::string> ReadJoinToken(const std::string& file) {
  const char* variable = std::getenv("MUSTER_JOIN_TOKEN");
  const std::string token = variable != nullptr ? variable : "";
  // The trainers inherit our environment.
  unsetenv("MUSTER_JOIN_TOKEN");
  if (file.empty()) return token;
  absl::StatusOr<std::string> read = security::ReadSecretFile(file);
  // Somebody may remove it once the node has joined.
  if (absl::IsNotFound(read.status())) return token;
  return read;
}

// The coordinator's refusal, handed from the session's thread to the main one.
struct Refusal {
  UniqueFd event{eventfd(0, EFD_CLOEXEC)};
  absl::Mutex mutex;
  std::string reason ABSL_GUARDED_BY(mutex);
};

int Serve(const WorkerOptions& options, bool keep_trainers) {
  // Blocked in every thread, taken from the descriptor.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const UniqueFd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC));

  Refusal refusal;
  absl::StatusOr<std::unique_ptr<Worker>> worker =
      Worker::Start(options, [&refusal](const std::string& reason) {
        {
          absl::MutexLock lock(&refusal.mutex);
          refusal.reason = reason;
        }
        const uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = write(refusal.event.get(), &one, sizeof(one));
      });
  if (!worker.ok()) {
    std::fprintf(stderr, "muster-worker: %s\n", std::string(worker.status().message()).c_str());
    return base::kExitUsage;
  }
  base::Log(base::LogSeverity::kInfo, "worker", "worker started",
            {{"name", options.name},
             {"slots", options.slots},
             {"metrics", "http://" + (*worker)->metrics_address() + "/metrics"}});

  pollfd descriptors[] = {{signal_fd.get(), POLLIN, 0}, {refusal.event.get(), POLLIN, 0}};
  while (poll(descriptors, 2, -1) < 0) {
  }
  const bool refused = descriptors[1].revents != 0;
  if (!keep_trainers) (*worker)->StopTrainers();
  worker->reset();
  if (!refused) return base::kExitCompleted;
  absl::MutexLock lock(&refusal.mutex);
  std::fprintf(stderr, "muster-worker: the coordinator refused this worker: %s\n",
               refusal.reason.c_str());
  return base::kExitUnavailable;
}

int Main(int argc, char** argv) {
  CLI::App app(kDescription, "muster-worker");
  app.footer(kFooter);
  std::string coordinator;
  std::string metrics = "127.0.0.1:0";
  WorkerOptions options;
  bool keep_trainers = false;
  app.add_option("--coordinator", coordinator,
                 "HOST:PORT of the coordinator, or several with commas")
      ->required()
      ->envname("MUSTER_COORDINATOR")
      ->check(CheckAddresses);
  app.add_option("--name", options.name, "Name of this node, one worker a name")
      ->required()
      ->check(CheckName);
  app.add_option("--slots", options.slots,
                 "Ranks that may run here at a time: GPUs, or shares of the cores")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option("--state-dir", options.state_dir, "Folder for checkpoints, logs and records")
      ->required();
  app.add_option("--data-root", options.data_roots, "Folder that jobs may read; may be repeated")
      ->required();
  app.add_option("--trainer", options.trainer,
                 "The trainer program; default: muster-trainer beside this one")
      ->check(CLI::ExistingFile);
  app.add_option("--metrics", metrics, "IP:PORT that /metrics is served on; port 0: any free one")
      ->capture_default_str();
  app.add_option(
      "--advertise-address", options.advertise_address,
      "IP address that other nodes reach this one at; default: the one towards the coordinator");
  std::vector<std::string> labels;
  app.add_option("--label", labels,
                 "NAME=VALUE that jobs can ask for (resources.node_labels); may be repeated")
      ->take_all()
      ->allow_extra_args(false)
      ->check(CheckLabel);
  std::string scheduled_events;
  app.add_option("--scheduled-events", scheduled_events,
                 "Where Azure's metadata service announces maintenance, http://HOST:PORT, or off; "
                 "default: its own address on Azure's machines, off elsewhere")
      ->check(CheckScheduledEvents);
  app.add_option("--vm-name", options.vm_name,
                 "This machine's name in scheduled events; default: asked for there");
  std::string join_token_file;
  app.add_option("--tls-ca", options.tls.ca,
                 "CA (PEM) of the coordinator's certificate: TLS. Read again when it changes, like "
                 "the other two")
      ->envname("MUSTER_TLS_CA");
  app.add_option("--tls-cert", options.tls.certificate,
                 "This worker's certificate (PEM), for a coordinator that asks for one and for "
                 "/metrics beyond loopback")
      ->envname("MUSTER_TLS_CERT");
  app.add_option("--tls-key", options.tls.key, "Its private key (PEM)")->envname("MUSTER_TLS_KEY");
  app.add_option(
      "--join-token-file", join_token_file,
      "File (mode 0600) with a token of muster node-token create; needed once, the first "
      "time. Or the token itself in $MUSTER_JOIN_TOKEN");
  std::string keep_finished_for = "720h";
  double keep_finished_gb = 0;
  app.add_option("--keep-finished-for", keep_finished_for,
                 "How long the files of a job that has ended (checkpoints, logs) stay here after "
                 "the last of them was written")
      ->capture_default_str()
      ->check(CheckDuration);
  app.add_option("--keep-finished-gb", keep_finished_gb,
                 "At most so many GB of them; the oldest go first; default: half of the disk")
      ->check(CLI::PositiveNumber);
  app.add_flag("--keep-trainers", keep_trainers,
               "Leave trainers running when this daemon is ended");
  app.set_version_flag("--version", MUSTER_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? base::kExitCompleted : base::kExitUsage;
  }

  const absl::StatusOr<base::Endpoint> endpoint = base::ParseEndpoint(metrics);
  if (!endpoint.ok()) {
    std::fprintf(stderr, "muster-worker: --metrics: %s\n",
                 std::string(endpoint.status().message()).c_str());
    return base::kExitUsage;
  }
  options.metrics = *endpoint;
  const absl::StatusOr<std::string> join_token = ReadJoinToken(join_token_file);
  if (!join_token.ok()) {
    std::fprintf(stderr, "muster-worker: %s\n", std::string(join_token.status().message()).c_str());
    return base::kExitUsage;
  }
  options.join_token = *join_token;
  options.coordinators = absl::StrSplit(coordinator, ',');
  options.threads_per_slot = ThreadsFromEnvironment();
  absl::ParseDuration(keep_finished_for, &options.keep.keep_for);
  options.keep.keep_bytes = static_cast<int64_t>(keep_finished_gb * 1e9);
  options.scheduled_events = ScheduledEventsUrl(scheduled_events);
  for (const std::string& label : labels) {
    const size_t equals = label.find('=');
    options.labels[label.substr(0, equals)] = label.substr(equals + 1);
  }
  const std::filesystem::path program = ThisProgram();
  options.shim_command = {program.string(), "shim"};
  if (options.trainer.empty()) options.trainer = program.parent_path() / "muster-trainer";
  options.trainer = std::filesystem::absolute(options.trainer);
  return Serve(options, keep_trainers);
}

}  // namespace
}  // namespace muster::worker

int main(int argc, char** argv) {
  // As the coordinator: Debian's Abseil looks for deadlocks at each lock, gRPC's among them.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // Not an option of the daemon's: it is how the daemon calls itself.
  if (argc > 1 && std::string(argv[1]) == "shim") {
    return muster::worker::ShimMain({argv + 2, argv + argc});
  }
  return muster::worker::Main(argc, argv);
}
