#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "muster/config/v1/train_job.pb.h"
#include "worker/data/data_loader.h"
#include "worker/data/sampler.h"
#include "worker/dist/gradient_reducer.h"
#include "worker/dist/process_groups.h"
#include "worker/model/faster_rcnn.h"
#include "worker/ops/index_sampler.h"
#include "worker/train/checkpoint.h"
#include "worker/train/checkpoint_writer.h"
#include "worker/train/data_split.h"
#include "worker/train/evaluator.h"
#include "worker/train/lr_schedule.h"
#include "worker/train/resume.h"
#include "worker/train/sgd.h"
#include "worker/train/step_agreement.h"
#include "worker/train/stop_signal.h"
#include "worker/train/training_log.h"
#include "worker/train/worker_reporter.h"

namespace muster::train {

// One rank's share of one run of a job.
struct TrainRequest {
  config::v1::TrainJob job;  // defaults applied, validated
  std::filesystem::path output;
  std::vector<std::filesystem::path> data_roots;
  // Stop, with a checkpoint, once the job has done so many steps in all.
  std::optional<int64_t> max_steps;
  ResumeRequest resume;
  std::string job_name;  // "jobs/x"; empty by hand
  int64_t generation = 0;
};

// Trains a job's model: every rank makes one and calls Run. A step is schedule.accumulative_counts
// passes and one update. A pass is forward, agreement with the other ranks (losses, finiteness,
// stop) and backward over the rank's next images; an update averages the gradients over the passes
// and the ranks, clips them and takes an SGD step. The last step of an epoch makes do with the
// passes that are left, and averages over those. After each epoch: checkpoint, evaluation. Throws
// TrainingFailure, dist::CollectiveLost or c10::Error.
class Trainer {
 public:
  // Joins nothing itself: `groups`, `reporter` and `stop` outlive the trainer.
  Trainer(const TrainRequest& request, const dist::RankEnvironment& rank, at::Device device,
          const dist::ProcessGroups& groups, WorkerReporter& reporter, const StopSignal& stop);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // To the end of the job, or until a stop is agreed on. A stop leaves a checkpoint of the last
  // step; an evaluation that it cut short is made up for by the run that resumes. False when
  // something was left to do.
  bool Run();

 private:
  enum class StepResult { kDone, kEpochOver, kStop };
  class PhaseClock;

  void BuildModel();
  void BuildOptimizer();
  // A cursor within an epoch counts chunks of images_per_rank images.
  void RequireSameChunks() const;
  void OpenOutput();
  // Weights and buffers of rank 0 to all, so that nothing that differs in how a rank built them
  // stays.
  void BroadcastModel(bool buffers_only);
  int64_t ImagesPerPass() const;
  // Passes and steps of the running epoch that are left.
  int64_t PassesLeft() const;
  int64_t StepsLeft() const;
  int64_t StepsPerEpoch() const;
  // Steps after which the run ends.
  int64_t TotalSteps() const;
  bool StopAsked() const { return stop_.received() || reporter_.stop_requested(); }

  void StartEpoch();
  StepResult Step();
  // Checkpoint and, where it is due, evaluation of the epoch that was just completed. False when
  // the run is to stop.
  bool FinishEpoch(bool evaluate);
  bool EvaluationDue(int epoch) const;
  // False when it was cut short by a stop.
  bool Evaluate();

  model::LossResult Forward(const std::shared_ptr<data::Batch>& batch);
  StepAgreement AgreeOn(const model::LossResult& losses, const data::Batch& batch);
  [[noreturn]] void FailNotFinite(const StepVote& vote, const StepAgreement& agreement,
                                  const data::Batch& batch);
  // Clips and updates; returns the gradients' norm.
  double Update(double rate);
  bool CheckpointDueByTime() const;
  void SaveCheckpoint(const std::string& file);
  void RecordStep(const PhaseClock& clock, const StepAgreement& agreement, double rate,
                  double grad_norm, int64_t images, absl::Duration waited);
  // For other ranks, in steps so far.
  absl::Duration Waited() const;
  void ReportProgress(v1::TrainProgress progress);
  v1::TrainProgress Progress(v1::TrainProgress::Phase phase) const;

  // Constant after construction.
  const TrainRequest request_;
  const config::v1::TrainJob& job_;
  const dist::RankEnvironment rank_;
  const at::Device device_;
  const dist::ProcessGroups& groups_;
  dist::Communicator& control_;
  WorkerReporter& reporter_;
  const StopSignal& stop_;

  const JobData data_;
  std::unique_ptr<data::DataLoader> loader_;
  std::unique_ptr<Evaluator> evaluator_;
  model::FasterRCNN model_{nullptr};
  std::unique_ptr<dist::GradientReducer> reducer_;
  std::unique_ptr<Sgd> sgd_;
  std::unique_ptr<LrSchedule> schedule_;
  std::unique_ptr<CheckpointWriter> writer_;  // local rank 0 of each node
  std::unique_ptr<TrainingLog> log_;          // rank 0

  TrainingPosition position_;
  int64_t chunks_per_epoch_ = 0;
  // Of all ranks together.
  int64_t chunks_per_pass_ = 0;
  // Of a whole step of all ranks.
  int64_t images_per_step_ = 0;
  std::unique_ptr<ops::RandomIndexSampler> sampler_;  // of the running epoch
  // Losses, learning rate and gradient norm of the last step; every report repeats them.
  v1::TrainProgress last_step_;
  // Of this process.
  int64_t images_done_ = 0;
  int64_t steps_done_ = 0;
  absl::Duration last_checkpoint_;
};

}  // namespace muster::train
