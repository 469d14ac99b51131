#include "worker/train/trainer.h"

#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "worker/eval/coco_files.h"
#include "worker/train/failure.h"

namespace muster::train {

using google::protobuf::util::TimeUtil;

namespace {

// A checkpoint that is not finite would take the place of one that training can go on from.
void RequireFinite(const NamedTensors& model, const std::vector<at::Tensor>& momentum,
                   int64_t step) {
  const auto finite = [](const at::Tensor& tensor) {
    return !tensor.defined() || !tensor.is_floating_point() ||
           at::isfinite(tensor).all().item<bool>();
  };
  std::string name;
  for (const auto& [tensor_name, tensor] : model) {
    if (name.empty() && !finite(tensor)) name = tensor_name;
  }
  if (name.empty() && !std::all_of(momentum.begin(), momentum.end(), finite)) name = "the momentum";
  if (name.empty()) return;
  throw TrainingFailure(
      base::kExitNonFinite,
      absl::StrCat(name, " is not finite after step ", step,
                   ", so no checkpoint is written: lower schedule.optimizer.lr or set "
                   "schedule.grad_clip_norm, and go on from the last checkpoint"));
}

}  // namespace

bool Trainer::Run() {
  reporter_.Joined();
  ReportProgress(Progress(v1::TrainProgress::PHASE_LOADING));
  // An evaluation that the last run did not get to.
  bool missing = false;
  if (control_.rank() == 0 && position_.epoch > 0 && position_.cursor == 0 &&
      EvaluationDue(position_.epoch)) {
    missing = !std::filesystem::exists(request_.output /
                                       absl::StrCat("results_", position_.epoch, ".json"));
  }
  missing = control_.BroadcastBytes(missing ? "1" : "", 0) == "1";
  bool go_on = !missing || Evaluate();

  while (go_on && position_.epoch < static_cast<int>(job_.schedule().epochs())) {
    if (request_.max_steps.has_value() && position_.step >= *request_.max_steps) break;
    StartEpoch();
    StepResult result = StepResult::kDone;
    while (result == StepResult::kDone) result = Step();
    if (PassesLeft() == 0) {
      ++position_.epoch;
      position_.cursor = 0;
      go_on = FinishEpoch(/*evaluate=*/result == StepResult::kEpochOver);
    } else {
      SaveCheckpoint(absl::StrCat("step_", position_.step, ".pth"));
      go_on = false;
    }
  }
  if (writer_ != nullptr) writer_->Flush();
  control_.Barrier();
  const bool complete = go_on && position_.epoch == static_cast<int>(job_.schedule().epochs());
  if (control_.rank() == 0) {
    base::Log(base::LogSeverity::kInfo, "trainer",
              complete ? "training is complete" : "training stopped",
              {{"step", position_.step}, {"epoch", position_.epoch}});
  }
  return complete || (request_.max_steps.has_value() && position_.step >= *request_.max_steps);
}

void Trainer::StartEpoch() {
  const data::EpochPlan plan(data_.train.dataset, data_.train_images,
                             {.images_per_rank = static_cast<int>(job_.data().images_per_rank()),
                              .seed = job_.seed(),
                              .epoch = static_cast<uint64_t>(position_.epoch),
                              .grouping = data::GroupingOf(job_)});
  sampler_ = std::make_unique<ops::RandomIndexSampler>(job_.seed(),
                                                       static_cast<uint64_t>(position_.epoch));
  loader_->Start(static_cast<uint64_t>(position_.epoch),
                 plan.Batches(position_.cursor, {.rank = control_.rank(),
                                                 .world = control_.size(),
                                                 .chunks_per_pass = chunks_per_pass_}));
  model_->train();
}

bool Trainer::CheckpointDueByTime() const {
  if (!job_.checkpointing().has_every()) return false;
  const absl::Duration every =
      absl::Milliseconds(TimeUtil::DurationToMilliseconds(job_.checkpointing().every()));
  return every > absl::ZeroDuration() && base::MonotonicNow() - last_checkpoint_ >= every;
}

void Trainer::SaveCheckpoint(const std::string& file) {
  const bool synced = job_.model().norm().type() == config::v1::NORM_TYPE_SYNC_BN ||
                      job_.model().norm().norm_eval();
  if (!synced) BroadcastModel(/*buffers_only=*/true);
  RequireFinite(StateDict(*model_), sgd_->momentum_buffers(), position_.step);
  std::optional<Snapshot> snapshot;
  std::string digest;
  if (writer_ != nullptr) {
    snapshot = TakeSnapshot(*model_, *sgd_, position_);
    snapshot->seed = job_.seed();
    snapshot->classes = ClassNames(data_.train.dataset);
    snapshot->learning_rate = last_step_.learning_rate();
    digest = snapshot->digest;
  } else {
    digest = Digest(StateDict(*model_), sgd_->momentum_buffers());
  }
  const std::vector<std::string> digests = control_.AllGatherBytes(digest);
  for (size_t rank = 1; rank < digests.size(); ++rank) {
    if (digests[rank] != digests[0]) {
      throw TrainingFailure(
          base::kExitInternal,
          absl::StrCat("ranks 0 and ", rank, " hold different weights at step ", position_.step));
    }
  }
  if (writer_ != nullptr) writer_->Write(file, *std::move(snapshot));
  last_checkpoint_ = base::MonotonicNow();
}

bool Trainer::FinishEpoch(bool evaluate) {
  SaveCheckpoint(absl::StrCat("epoch_", position_.epoch, ".pth"));
  const bool go_on = evaluate && (!EvaluationDue(position_.epoch) || Evaluate());
  ReportProgress(Progress(v1::TrainProgress::PHASE_TRAINING));
  return go_on;
}

bool Trainer::EvaluationDue(int epoch) const {
  const int every = static_cast<int>(job_.evaluation().every_epochs());
  return every > 0 && (epoch % every == 0 || epoch == static_cast<int>(job_.schedule().epochs()));
}

bool Trainer::Evaluate() {
  const auto on_progress = [&](int64_t done, int64_t total) {
    v1::TrainProgress progress = Progress(v1::TrainProgress::PHASE_EVALUATING);
    progress.set_eval_images(done);
    progress.set_eval_images_total(total);
    ReportProgress(std::move(progress));
    if (log_ != nullptr) log_->ShowEvaluation(done, total);
    return !StopAsked();
  };
  const EvaluationOutcome outcome = evaluator_->Evaluate(model_, control_, on_progress);
  if (!outcome.complete) return false;
  if (control_.rank() != 0) return true;
  const absl::Status written = eval::WriteDetections(
      request_.output / absl::StrCat("results_", position_.epoch, ".json"), outcome.detections);
  if (!written.ok()) {
    base::Log(base::LogSeverity::kWarning, "trainer", "results could not be written",
              {{"error", absl::string_view(written.message())}});
  }
  log_->AddEvaluation(outcome.result, position_.epoch, position_.step);
  std::fputs(eval::SummaryTable(outcome.result).c_str(), stderr);
  reporter_.Evaluation(ToEvalResult(outcome.result, position_.epoch, position_.step));
  return true;
}

void Trainer::ReportProgress(v1::TrainProgress progress) {
  internal::StepReport report;
  *report.mutable_progress() = std::move(progress);
  report.set_images_total(images_done_);
  report.set_steps_total(steps_done_);
  reporter_.Step(std::move(report));
}

v1::TrainProgress Trainer::Progress(v1::TrainProgress::Phase phase) const {
  v1::TrainProgress progress = last_step_;
  progress.set_phase(phase);
  progress.set_step(position_.step);
  progress.set_epoch(position_.epoch);
  progress.set_total_epochs(static_cast<int>(job_.schedule().epochs()));
  progress.set_steps_per_epoch(StepsPerEpoch());
  progress.set_total_steps(TotalSteps());
  if (log_ != nullptr) {
    progress.set_images_per_second(log_->images_per_second());
    *progress.mutable_eta() =
        TimeUtil::MillisecondsToDuration(absl::ToInt64Milliseconds(log_->eta(position_.step)));
  }
  *progress.mutable_time() = TimeUtil::GetCurrentTime();
  return progress;
}

}  // namespace muster::train
