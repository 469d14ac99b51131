#include "tests/support/local_cluster.h"

#include <grpcpp/grpcpp.h>

#include <csignal>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muster::testing {
namespace {

std::shared_ptr<grpc::Channel> Channel(const std::string& address) {
  return grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
}

std::chrono::system_clock::time_point Deadline(absl::Duration timeout) {
  return std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout);
}

}  // namespace

bool HasEnded(const v1::Job& job) {
  return job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
         job.state() == v1::Job::STATE_CANCELLED;
}

LocalCluster::LocalCluster(const Options& options) : options_(options) {
  StartCoordinator();
  for (int i = 0; i < options_.workers; ++i) StartWorker(i);
}

LocalCluster::~LocalCluster() {
  for (const auto& [index, process] : workers_) KillWorkerAndTrainers(index);
}

void LocalCluster::StartCoordinator() {
  const std::filesystem::path addresses = folder() / "addresses";
  const bool again = !rpc_address_.empty();
  std::filesystem::remove(addresses);
  coordinator_ = std::make_unique<Process>(Process::Options{
      {ProgramFolder() / "muster-coordinator", "--listen", again ? rpc_address_ : "127.0.0.1:0",
       "--http", again ? http_address_ : "127.0.0.1:0", "--store",
       options_.store.empty() ? (folder() / "store.sqlite").string() : options_.store,
       "--address-file", addresses, "--heartbeat-interval", "250ms"},
      {},
      folder() / "coordinator.log"});
  if (!WaitUntil([&] { return std::filesystem::exists(addresses); }, absl::Seconds(20))) {
    throw std::runtime_error("the coordinator did not start: " + coordinator_->Output());
  }
  std::ifstream in(addresses);
  std::getline(in, rpc_address_);
  std::getline(in, http_address_);
}

std::string LocalCluster::StandbyAddress() const {
  return absl::StrCat("127.0.0.2", rpc_address_.substr(rpc_address_.rfind(':')));
}

void LocalCluster::StartStandby() {
  const std::filesystem::path log = folder() / "standby.log";
  standby_ = std::make_unique<Process>(Process::Options{
      {ProgramFolder() / "muster-coordinator", "--listen", StandbyAddress(), "--http",
       "127.0.0.1:0", "--store", options_.store, "--heartbeat-interval", "250ms"},
      {},
      log});
  if (!WaitUntil([&] { return standby_->Output().find("standing by") != std::string::npos; },
                 absl::Seconds(20))) {
    throw std::runtime_error("the standby did not start: " + standby_->Output());
  }
}

void LocalCluster::KillCoordinator() {
  coordinator_->Signal(SIGKILL);
  coordinator_->Wait(absl::Seconds(10));
  if (standby_ == nullptr) return;
  rpc_address_ = StandbyAddress();
  coordinator_ = std::move(standby_);
}

std::filesystem::path LocalCluster::StateFolder(int index) const {
  return folder() / absl::StrCat("w", index);
}

void LocalCluster::StartWorker(int index) {
  const auto own = options_.data_root_of.find(index);
  const std::filesystem::path& data_root =
      own == options_.data_root_of.end() ? options_.data_root : own->second;
  const std::string coordinators =
      options_.store.empty() ? rpc_address_ : absl::StrCat(rpc_address_, ",", StandbyAddress());
  std::vector<std::string> arguments = {ProgramFolder() / "muster-worker",
                                        "--coordinator",
                                        coordinators,
                                        "--name",
                                        absl::StrCat("w", index),
                                        "--slots",
                                        absl::StrCat(options_.slots),
                                        "--state-dir",
                                        StateFolder(index),
                                        "--data-root",
                                        data_root};
  const auto events = options_.scheduled_events_of.find(index);
  if (events != options_.scheduled_events_of.end()) {
    arguments.insert(arguments.end(), {"--scheduled-events", events->second});
  }
  // One thread a rank: two that wait for each other take minutes where a build has the cores.
  workers_[index] =
      std::make_unique<Process>(Process::Options{std::move(arguments),
                                                 {"OMP_NUM_THREADS=1"},
                                                 folder() / absl::StrCat("worker", index, ".log")});
}

std::vector<pid_t> LocalCluster::ProcessesOf(int index, const std::string& wanted) const {
  // A trainer's command line names its output folder, which lies in the worker's state folder; the
  // shim's does as well, and starts with the worker's own program.
  std::vector<pid_t> processes;
  for (const pid_t pid : ProcessesWith(StateFolder(index).string() + "/")) {
    std::ifstream in(absl::StrCat("/proc/", pid, "/cmdline"));
    std::string program;
    std::getline(in, program, '\0');
    if (program.ends_with(wanted)) processes.push_back(pid);
  }
  return processes;
}

std::vector<pid_t> LocalCluster::Trainers(int index) const {
  return ProcessesOf(index, "muster-trainer");
}

std::vector<pid_t> LocalCluster::Shims(int index) const {
  return ProcessesOf(index, "muster-worker");
}

std::vector<pid_t> LocalCluster::AllTrainers() const {
  std::vector<pid_t> all;
  for (int i = 0; i < options_.workers; ++i) {
    for (const pid_t pid : Trainers(i)) all.push_back(pid);
  }
  return all;
}

void LocalCluster::KillWorkerAlone(int index) {
  workers_.at(index)->Signal(SIGKILL);
  workers_.at(index)->Wait(absl::Seconds(10));
}

void LocalCluster::KillWorkerAndTrainers(int index) {
  workers_.at(index)->Signal(SIGKILL);
  workers_.at(index)->Wait(absl::Seconds(10));
  KillProcessesWith(StateFolder(index).string() + "/");
}

std::string LocalCluster::WorkerOutput(int index) const { return workers_.at(index)->Output(); }

bool LocalCluster::WaitForNodes(int count, absl::Duration timeout) {
  const auto stub = v1::NodeService::NewStub(Channel(rpc_address_));
  return WaitUntil(
      [&] {
        grpc::ClientContext context;
        v1::ListNodesResponse response;
        if (!stub->ListNodes(&context, {}, &response).ok()) return false;
        int ready = 0;
        for (const v1::Node& node : response.nodes())
          ready += node.state() == v1::Node::STATE_READY;
        return ready >= count;
      },
      timeout);
}

Finished LocalCluster::Muster(std::vector<std::string> arguments, absl::Duration timeout) const {
  arguments.insert(arguments.begin(), ProgramFolder() / "muster");
  return Run(arguments, timeout, {"MUSTER_COORDINATOR=" + rpc_address_});
}

v1::Job LocalCluster::GetJob(const std::string& name) const {
  const auto stub = v1::JobService::NewStub(Channel(rpc_address_));
  grpc::ClientContext context;
  context.set_deadline(Deadline(absl::Seconds(10)));
  v1::GetJobRequest request;
  request.set_name(name);
  v1::Job job;
  const grpc::Status status = stub->GetJob(&context, request, &job);
  if (!status.ok()) throw std::runtime_error("GetJob " + name + ": " + status.error_message());
  return job;
}

v1::Job LocalCluster::WaitForJob(const std::string& name,
                                 const std::function<bool(const v1::Job&)>& done,
                                 absl::Duration timeout) const {
  v1::Job job;
  const auto deadline = Deadline(timeout);
  while (std::chrono::system_clock::now() < deadline) {
    const auto stub = v1::JobService::NewStub(Channel(rpc_address_));
    grpc::ClientContext context;
    context.set_deadline(deadline);
    v1::WatchJobRequest request;
    request.set_name(name);
    const auto reader = stub->WatchJob(&context, request);
    v1::WatchJobResponse response;
    while (reader->Read(&response)) {
      job = response.job();
      if (done(job) || HasEnded(job)) {
        context.TryCancel();
        reader->Finish();
        return job;
      }
    }
    const grpc::Status status = reader->Finish();
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
      throw std::runtime_error("WatchJob " + name + ": " + status.error_message());
    }
    PauseBeforeNextLook();
  }
  return job;
}

}  // namespace muster::testing
