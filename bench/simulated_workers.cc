// Thousands of workers in one process, each with a connection of its own, which join a coordinator
// and send heartbeats: bench/compare --what workers.
//
// Prints "joined N" when the coordinator has welcomed all of them, and `--seconds` later what
// became of them.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_callback.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "CLI/CLI.hpp"
#include "muster/v1/worker_service.grpc.pb.h"

namespace {

using muster::v1::CoordinatorMessage;
using muster::v1::WorkerMessage;

struct Flags {
  std::string coordinator;
  int workers = 10'000;
  int slots = 8;
  int protocol = 2;
  int seconds = 60;
  // Workers that may be joining at a time.
  int joining = 200;
};

std::atomic<int> welcomed{0};
std::atomic<int> ended{0};
std::atomic<int64_t> heartbeats{0};
// Heartbeats that found the one before not sent yet.
std::atomic<int64_t> late{0};

class SimulatedWorker : public grpc::ClientBidiReactor<WorkerMessage, CoordinatorMessage> {
 public:
  SimulatedWorker(const Flags& flags, int number) {
    grpc::ChannelArguments arguments;
    // Otherwise all channels to one address share a connection.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    stub_ = muster::v1::WorkerService::NewStub(grpc::CreateCustomChannel(
        flags.coordinator, grpc::InsecureChannelCredentials(), arguments));
    stub_->async()->Session(&context_, this);
    WorkerMessage message;
    muster::v1::Hello* hello = message.mutable_hello();
    hello->set_node(absl::StrCat("node-", number));
    hello->set_node_uid(absl::StrCat("uid-node-", number));
    hello->set_instance("1");
    hello->set_protocol_version(flags.protocol);
    hello->mutable_inventory()->set_slots(flags.slots);
    hello->mutable_inventory()->set_hostname(absl::StrCat("host-", number));
    hello->mutable_inventory()->set_metrics_address(absl::StrCat("10.0.0.1:", number));
    Send(std::move(message));
    StartRead(&incoming_);
    StartCall();
  }

  void Heartbeat() {
    WorkerMessage message;
    message.mutable_heartbeat()->set_sequence(++sequence_);
    Send(std::move(message));
    ++heartbeats;
  }

  void End() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (incoming_.has_welcome()) ++welcomed;
    if (incoming_.has_desired()) {
      WorkerMessage message;
      message.mutable_ack()->set_version(incoming_.desired().version());
      Send(std::move(message));
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    outgoing_.pop_front();
    if (ok && !outgoing_.empty()) StartWrite(&outgoing_.front());
  }

  void OnDone(const grpc::Status&) override { ++ended; }

 private:
  void Send(WorkerMessage message) {
    absl::MutexLock lock(&mutex_);
    if (!outgoing_.empty()) ++late;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

  std::unique_ptr<muster::v1::WorkerService::Stub> stub_;
  grpc::ClientContext context_;
  CoordinatorMessage incoming_;
  int64_t sequence_ = 0;
  absl::Mutex mutex_;
  std::deque<WorkerMessage> outgoing_ ABSL_GUARDED_BY(mutex_);
};

void Beat(std::vector<std::unique_ptr<SimulatedWorker>>* workers, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) (*workers)[i]->Heartbeat();
}

}  // namespace

int main(int argc, char** argv) {
  // As the daemons.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  Flags flags;
  CLI::App parser("Thousands of workers that join a coordinator and send heartbeats",
                  "simulated_workers");
  parser.option_defaults()->always_capture_default();
  parser.add_option("--coordinator", flags.coordinator, "IP:PORT")->required();
  parser.add_option("--workers", flags.workers);
  parser.add_option("--slots", flags.slots);
  parser.add_option("--protocol", flags.protocol, "Version that they speak");
  parser.add_option("--seconds", flags.seconds, "After all have joined");
  CLI11_PARSE(parser, argc, argv);

  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);

  std::vector<std::unique_ptr<SimulatedWorker>> workers;
  // Each worker sends one heartbeat a second, and all of them spread evenly over it: every slice of
  // the second has its part of the workers.
  constexpr int kSlices = 100;
  absl::Time next = absl::Now();
  absl::Time end = absl::InfiniteFuture();
  for (int64_t slice = 0; absl::Now() < end; ++slice) {
    const size_t part = slice % kSlices;
    Beat(&workers, workers.size() * part / kSlices, workers.size() * (part + 1) / kSlices);
    while (static_cast<int>(workers.size()) < flags.workers &&
           static_cast<int>(workers.size()) - welcomed < flags.joining) {
      workers.push_back(std::make_unique<SimulatedWorker>(flags, static_cast<int>(workers.size())));
    }
    if (end == absl::InfiniteFuture() && welcomed == flags.workers) {
      std::printf("joined %d\n", flags.workers);
      std::fflush(stdout);
      end = absl::Now() + absl::Seconds(flags.seconds);
      heartbeats = 0;
      late = 0;
    }
    next += absl::Seconds(1) / kSlices;
    absl::SleepFor(next - absl::Now());
  }
  std::printf("heartbeats %lld\n", static_cast<long long>(heartbeats));
  std::printf("late_heartbeats %lld\n", static_cast<long long>(late));
  std::printf("welcomes %d\n", welcomed.load());
  std::printf("streams_ended %d\n", ended.load());
  std::fflush(stdout);
  for (const auto& worker : workers) worker->End();
  while (ended < flags.workers) absl::SleepFor(absl::Milliseconds(10));
  return 0;
}
