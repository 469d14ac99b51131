#pragma once

#include <torch/types.h>

#include <memory>
#include <string>

#include "muster/config/v1/train_job.pb.h"
#include "worker/dist/process_groups.h"
#include "worker/train/trainer.h"

namespace muster::train {

// Runs the request as the rank that `rank` says, and returns the exit code. Prints a failure as one
// line and reports it to the worker.
int RunTraining(const TrainRequest& request, const dist::RankEnvironment& rank,
                const std::string& worker_socket);

// The device that a job's rank computes on: the CPU, or the CUDA device of the local rank. Throws
// TrainingFailure (kExitDeviceError) when it is not there.
at::Device RequireDevice(const config::v1::Resources& resources, int local_rank);

// Joins the job's other ranks, for collectives on `device`. Throws TrainingFailure or
// dist::CollectiveLost.
std::unique_ptr<dist::ProcessGroups> JoinRanks(const config::v1::TrainJob& job,
                                               const dist::RankEnvironment& rank,
                                               at::Device device);

// Threads of torch's own for a rank: OMP_NUM_THREADS, else its share of the cores.
void SetThreads(int local_ranks);

}  // namespace muster::train
