#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"

#include "CLI/CLI.hpp"
#include "common/base/exit_codes.h"
#include "common/base/log.h"
#include "worker/daemon/inventory.h"
#include "worker/daemon/shim.h"
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
    "Examples:\n"
    "  muster-worker --coordinator 10.0.0.4:8443 --name w1 --slots 4 --state-dir /var/lib/muster "
    "\\\n"
    "    --data-root /data\n"
    "  muster-worker --coordinator 10.0.0.4:8443,10.0.0.5:8443 --name gpu-7 --slots 8 \\\n"
    "    --state-dir /mnt/muster --data-root /data --data-root /models --metrics 10.0.0.7:9464\n";

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
  options.coordinators = absl::StrSplit(coordinator, ',');
  options.threads_per_slot = ThreadsFromEnvironment();
  const std::filesystem::path program = ThisProgram();
  options.shim_command = {program.string(), "shim"};
  if (options.trainer.empty()) options.trainer = program.parent_path() / "muster-trainer";
  options.trainer = std::filesystem::absolute(options.trainer);
  return Serve(options, keep_trainers);
}

}  // namespace
}  // namespace muster::worker

int main(int argc, char** argv) {
  // Not an option of the daemon's: it is how the daemon calls itself.
  if (argc > 1 && std::string(argv[1]) == "shim") {
    return muster::worker::ShimMain({argv + 2, argv + argc});
  }
  return muster::worker::Main(argc, argv);
}
