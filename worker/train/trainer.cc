#include "worker/train/trainer.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/time_util.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "worker/eval/coco_files.h"
#include "worker/train/batches.h"
#include "worker/train/failure.h"

namespace muster::train {

using google::protobuf::util::TimeUtil;

// Wall time of a step's phases.
class Trainer::PhaseClock {
 public:
  PhaseClock() : last_(base::MonotonicNow()), start_(last_) {}

  void Mark(const char* phase) {
    const absl::Duration now = base::MonotonicNow();
    phases_.emplace_back(phase, now - last_);
    last_ = now;
  }
  absl::Duration total() const { return last_ - start_; }
  const std::vector<std::pair<const char*, absl::Duration>>& phases() const { return phases_; }

 private:
  absl::Duration last_;
  const absl::Duration start_;
  std::vector<std::pair<const char*, absl::Duration>> phases_;
};

void Trainer::Run() {
  reporter_.Joined();
  // An evaluation that the last run did not get to.
  bool missing = false;
  if (control_.rank() == 0 && position_.epoch > 0 && position_.cursor == 0 &&
      EvaluationDue(position_.epoch)) {
    missing = !std::filesystem::exists(request_.output /
                                       absl::StrCat("results_", position_.epoch, ".json"));
  }
  if (control_.BroadcastBytes(missing ? "1" : "", 0) == "1") Evaluate();

  while (position_.epoch < static_cast<int>(job_.schedule().epochs())) {
    if (request_.max_steps.has_value() && position_.step >= *request_.max_steps) break;
    StartEpoch();
    StepResult result = StepResult::kDone;
    while (result == StepResult::kDone) result = Step();
    if (plan_->StepsLeft(position_.cursor, control_.size()) == 0) {
      ++position_.epoch;
      position_.cursor = 0;
      FinishEpoch(/*evaluate=*/result == StepResult::kEpochOver);
    } else {
      SaveCheckpoint(absl::StrCat("step_", position_.step, ".pth"));
    }
    if (result == StepResult::kStop) break;
  }
  if (writer_ != nullptr) writer_->Flush();
  control_.Barrier();
  if (control_.rank() == 0) {
    base::Log(base::LogSeverity::kInfo, "trainer",
              position_.epoch == static_cast<int>(job_.schedule().epochs()) ? "training is complete"
                                                                            : "training stopped",
              {{"step", position_.step}, {"epoch", position_.epoch}});
  }
}

void Trainer::StartEpoch() {
  plan_ = std::make_unique<data::EpochPlan>(
      data_.train.dataset, data_.train_images,
      data::EpochPlan::Options{.images_per_rank = static_cast<int>(job_.data().images_per_rank()),
                               .seed = job_.seed(),
                               .epoch = static_cast<uint64_t>(position_.epoch)});
  sampler_ = std::make_unique<ops::RandomIndexSampler>(job_.seed(),
                                                       static_cast<uint64_t>(position_.epoch));
  loader_->Start(static_cast<uint64_t>(position_.epoch),
                 plan_->Batches(position_.cursor, control_.rank(), control_.size()));
  model_->train();
}

Trainer::StepResult Trainer::Step() {
  PhaseClock clock;
  const std::shared_ptr<data::Batch> batch = Require(loader_->Next(), base::kExitDataError);
  if (batch == nullptr) return StepResult::kEpochOver;
  const model::TrainBatch inputs = ToTrainBatch(batch, device_);
  clock.Mark("data");

  reducer_->BeginStep();
  const model::LossResult losses = model_->Loss(inputs, *sampler_);
  const StepAgreement agreement = AgreeOn(losses, *batch);
  clock.Mark("forward");

  reducer_->Backward(losses.Total());
  clock.Mark("backward");

  const double grad_norm = ClipGradients(sgd_->parameters(), job_.schedule().grad_clip_norm());
  const double rate = schedule_->At(position_.step, position_.epoch);
  sgd_->Step(rate);
  sgd_->ZeroGradients();
  clock.Mark("optimizer");

  ++position_.step;
  position_.cursor += control_.size();
  RecordStep(clock, agreement, rate, grad_norm, batch->images());

  if (plan_->StepsLeft(position_.cursor, control_.size()) == 0) {
    return agreement.stop ? StepResult::kStop : StepResult::kEpochOver;
  }
  if (agreement.stop || (request_.max_steps.has_value() && position_.step >= *request_.max_steps)) {
    return StepResult::kStop;
  }
  const int64_t every = job_.checkpointing().every_steps();
  if (agreement.checkpoint || (every > 0 && position_.step % every == 0)) {
    SaveCheckpoint(absl::StrCat("step_", position_.step, ".pth"));
  }
  return StepResult::kDone;
}

StepAgreement Trainer::AgreeOn(const model::LossResult& losses, const data::Batch& batch) {
  const StepVote vote{.losses = LossValues(losses),
                      .stop = stop_.received() || reporter_.stop_requested(),
                      .checkpoint = control_.rank() == 0 && CheckpointDueByTime()};
  StepAgreement agreement = Agree(vote, control_);
  if (!agreement.not_finite.empty()) FailNotFinite(vote, agreement, batch);
  return agreement;
}

void Trainer::FailNotFinite(const StepVote& vote, const StepAgreement& agreement,
                            const data::Batch& batch) {
  std::string own;
  if (!vote.finite()) {
    std::vector<std::string> parts;
    for (size_t i = 0; i < kLossNames.size(); ++i) {
      if (!std::isfinite(vote.losses[i])) {
        parts.push_back(absl::StrCat(kLossNames[i], " is ", vote.losses[i]));
      }
    }
    own = absl::StrCat(
        absl::StrJoin(parts, " and "), " on rank ", control_.rank(), ", images ",
        absl::StrJoin(batch.samples, ", ", [](std::string* out, const data::SampleMeta& sample) {
          absl::StrAppend(out, sample.image_id);
        }));
  }
  // Every rank names all of them: any rank's log tells the whole story.
  std::vector<std::string> stories;
  for (const std::string& story : control_.AllGatherBytes(own)) {
    if (!story.empty()) stories.push_back(story);
  }
  throw TrainingFailure(
      base::kExitNonFinite,
      absl::StrCat("the loss is not finite at step ", position_.step + 1, ": ",
                   absl::StrJoin(stories, "; "), "; nothing was updated (",
                   agreement.not_finite.size(), " of ", control_.size(), " ranks)"));
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
  std::optional<Snapshot> snapshot;
  std::string digest;
  if (writer_ != nullptr) {
    snapshot = TakeSnapshot(*model_, *sgd_, position_);
    snapshot->seed = job_.seed();
    snapshot->classes = ClassNames(data_.train.dataset);
    snapshot->learning_rate = rate_;
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

void Trainer::FinishEpoch(bool evaluate) {
  SaveCheckpoint(absl::StrCat("epoch_", position_.epoch, ".pth"));
  if (evaluate && EvaluationDue(position_.epoch)) Evaluate();
  ReportProgress(Progress(v1::TrainProgress::PHASE_TRAINING));
}

bool Trainer::EvaluationDue(int epoch) const {
  const int every = static_cast<int>(job_.evaluation().every_epochs());
  return every > 0 && (epoch % every == 0 || epoch == static_cast<int>(job_.schedule().epochs()));
}

void Trainer::Evaluate() {
  const int64_t total = static_cast<int64_t>(data_.val.dataset.images().size());
  const auto on_progress = [&](int64_t done, int64_t) {
    v1::TrainProgress progress = Progress(v1::TrainProgress::PHASE_EVALUATING);
    // The others are about as far.
    progress.set_eval_images(std::min(total, done * control_.size()));
    progress.set_eval_images_total(total);
    ReportProgress(std::move(progress));
  };
  on_progress(0, 0);
  const std::optional<EvaluationOutcome> outcome =
      evaluator_->Evaluate(model_, control_, on_progress);
  if (!outcome.has_value()) return;
  const absl::Status written = eval::WriteDetections(
      request_.output / absl::StrCat("results_", position_.epoch, ".json"), outcome->detections);
  if (!written.ok()) {
    base::Log(base::LogSeverity::kWarning, "trainer", "results could not be written",
              {{"error", absl::string_view(written.message())}});
  }
  log_->AddEvaluation(outcome->result, position_.epoch, position_.step);
  std::fputs(eval::SummaryTable(outcome->result).c_str(), stderr);
  reporter_.Evaluation(ToEvalResult(outcome->result, position_.epoch, position_.step));
}

void Trainer::RecordStep(const PhaseClock& clock, const StepAgreement& agreement, double rate,
                         double grad_norm, int images) {
  rate_ = rate;
  images_done_ += images;
  ++steps_done_;
  if (log_ != nullptr) {
    log_->AddStep(
        {.step = position_.step,
         .epoch = position_.epoch + 1,
         .step_in_epoch = steps_per_epoch_ - plan_->StepsLeft(position_.cursor, control_.size()),
         .losses = agreement.losses,
         .loss = agreement.total(),
         .learning_rate = rate,
         .grad_norm = grad_norm,
         .images = images * control_.size(),
         .duration = clock.total(),
         .data_duration = clock.phases().front().second});
  }
  last_step_.set_learning_rate(rate);
  last_step_.set_grad_norm(grad_norm);
  for (size_t i = 0; i < kLossNames.size(); ++i) {
    (*last_step_.mutable_losses())[kLossNames[i]] = agreement.losses[i];
  }
  (*last_step_.mutable_losses())["loss"] = agreement.total();
  internal::StepReport report;
  *report.mutable_progress() = Progress(v1::TrainProgress::PHASE_TRAINING);
  report.set_images_total(images_done_);
  report.set_steps_total(steps_done_);
  report.add_step_durations_seconds(absl::ToDoubleSeconds(clock.total()));
  for (const auto& [phase, duration] : clock.phases()) {
    internal::PhaseDuration* item = report.add_phases();
    item->set_phase(phase);
    item->set_seconds(absl::ToDoubleSeconds(duration));
  }
  reporter_.Step(std::move(report));
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
  progress.set_steps_per_epoch(steps_per_epoch_);
  if (steps_per_epoch_ > 0) progress.set_total_steps(TotalSteps());
  if (log_ != nullptr) {
    progress.set_images_per_second(log_->images_per_second());
    *progress.mutable_eta() =
        TimeUtil::MillisecondsToDuration(absl::ToInt64Milliseconds(log_->eta(position_.step)));
  }
  *progress.mutable_time() = TimeUtil::GetCurrentTime();
  return progress;
}

}  // namespace muster::train
