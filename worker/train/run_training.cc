#include "worker/train/run_training.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"

#include "worker/dist/cuda_plugin.h"
#include "worker/dist/flight_record.h"
#include "worker/ops/cuda_kernels.h"
#include "worker/train/failure.h"
#include "worker/train/stop_signal.h"
#include "worker/train/worker_reporter.h"

namespace muster::train {
namespace {

using google::protobuf::util::TimeUtil;

constexpr size_t kDumpedPerGroup = 32;

internal::CollectiveDump DumpCollectives() {
  using Record = v1::CollectiveRecord;
  internal::CollectiveDump dump;
  const auto records = dist::NewestCollectives(kDumpedPerGroup);
  if (!records.ok()) {
    dump.set_error(std::string(records.status().message()));
    return dump;
  }
  for (const dist::FlightRecord& record : *records) {
    Record* collective = dump.add_collectives();
    collective->set_group(record.group);
    collective->set_sequence(record.sequence);
    collective->set_operation(record.operation);
    collective->set_state(
        record.state == dist::FlightRecord::State::kCompleted ? Record::STATE_COMPLETED
        : record.state == dist::FlightRecord::State::kStarted ? Record::STATE_STARTED
                                                              : Record::STATE_SCHEDULED);
  }
  return dump;
}

// False when training was stopped before its end.
bool TrainAsRank(const TrainRequest& request, const dist::RankEnvironment& rank,
                 WorkerReporter& reporter, const StopSignal& stop) {
  const at::Device device = RequireDevice(request.job.resources(), rank.local_rank);
  SetThreads(rank.local_world_size);
  const std::unique_ptr<dist::ProcessGroups> groups = JoinRanks(request.job, rank, device);
  Trainer trainer(request, rank, device, *groups, reporter, stop);
  return trainer.Run();
}

}  // namespace

at::Device RequireDevice(const config::v1::Resources& resources, int local_rank) {
  if (resources.device() != config::v1::DEVICE_CUDA) return at::kCPU;
  const dist::CudaPlugin plugin =
      Require(dist::RequireCudaDevice(local_rank), base::kExitDeviceError);
  ops::RegisterCudaKernels(plugin.kernels);
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(local_rank));
}

std::unique_ptr<dist::ProcessGroups> JoinRanks(const config::v1::TrainJob& job,
                                               const dist::RankEnvironment& rank,
                                               at::Device device) {
  const dist::ProcessGroupOptions options{
      .timeout = absl::Milliseconds(TimeUtil::DurationToMilliseconds(job.distributed().timeout())),
      .device = device};
  return Require(dist::JoinProcessGroups(rank, options), base::kExitInternal);
}

void SetThreads(int local_ranks) {
  int threads = 0;
  const char* asked = std::getenv("OMP_NUM_THREADS");
  if (asked == nullptr || !absl::SimpleAtoi(asked, &threads) || threads < 1) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    threads = std::max(1, cores / std::max(1, local_ranks));
  }
  at::set_num_threads(threads);
  // Idle ones would only spin beside the others.
  at::set_num_interop_threads(1);
}

int RunTraining(const TrainRequest& request, const dist::RankEnvironment& rank,
                const std::string& worker_socket) {
  const StopSignal stop;
  WorkerReporter reporter({.socket = worker_socket,
                           .job = request.job_name,
                           .generation = request.generation,
                           .rank = rank.rank,
                           .dump_collectives = DumpCollectives});
  try {
    return TrainAsRank(request, rank, reporter, stop) ? base::kExitCompleted : base::kExitStopped;
  } catch (...) {
    const FailureReport failure = DescribeCurrentException();
    std::fputs(absl::StrCat("muster-trainer: error: ", failure.message, "\n").c_str(), stderr);
    reporter.Failure(failure.exit_code, failure.message);
    return failure.exit_code;
  }
}

}  // namespace muster::train
