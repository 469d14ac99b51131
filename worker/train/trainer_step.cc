#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "worker/model/autocast.h"
#include "worker/train/batches.h"
#include "worker/train/failure.h"
#include "worker/train/trainer.h"

// One step: its passes, the update and the report of it.
namespace muster::train {

// Wall time of a step's phases; those of its passes add up.
class Trainer::PhaseClock {
 public:
  PhaseClock() : last_(base::MonotonicNow()), start_(last_) {}

  void Mark(const char* phase) {
    const absl::Duration now = base::MonotonicNow();
    phases_[phase] += now - last_;
    last_ = now;
  }
  absl::Duration total() const { return last_ - start_; }
  const std::map<std::string, absl::Duration>& phases() const { return phases_; }

 private:
  absl::Duration last_;
  const absl::Duration start_;
  std::map<std::string, absl::Duration> phases_;
};

Trainer::StepResult Trainer::Step() {
  PhaseClock clock;
  const absl::Duration waited_before = Waited();
  StepAgreement step;
  int64_t own_images = 0;
  const int64_t passes = std::min<int64_t>(job_.schedule().accumulative_counts(), PassesLeft());
  for (int64_t pass = 1; pass <= passes; ++pass) {
    const std::shared_ptr<data::Batch> batch = Require(loader_->Next(), base::kExitDataError);
    TORCH_CHECK(batch != nullptr, "the epoch's batches have run out before its steps");
    own_images += batch->images();
    clock.Mark("data");

    const bool last = pass == passes;
    if (last) reducer_->BeginStep();
    const model::LossResult losses = Forward(batch);
    step.AddPass(AgreeOn(losses, *batch), passes);
    clock.Mark("forward");

    const at::Tensor loss = losses.Total() / passes;
    if (last) {
      reducer_->Backward(loss);
    } else {
      dist::GradientReducer::Accumulate(loss);
    }
    clock.Mark("backward");
  }

  const double warmed =
      static_cast<double>(position_.images) / static_cast<double>(position_.first_images_per_step);
  const double rate = schedule_->At(warmed, position_.epoch);
  const double grad_norm = Update(rate);
  clock.Mark("optimizer");

  ++position_.step;
  position_.cursor += passes * chunks_per_pass_;
  position_.images += images_per_step_;
  images_done_ += own_images;
  RecordStep(clock, step, rate, grad_norm, passes * ImagesPerPass(), Waited() - waited_before);

  if (PassesLeft() == 0) return step.stop ? StepResult::kStop : StepResult::kEpochOver;
  if (step.stop || (request_.max_steps.has_value() && position_.step >= *request_.max_steps)) {
    return StepResult::kStop;
  }
  const int64_t every = job_.checkpointing().every_steps();
  if (step.checkpoint || (every > 0 && position_.step % every == 0)) {
    SaveCheckpoint(absl::StrCat("step_", position_.step, ".pth"));
  }
  return StepResult::kDone;
}

absl::Duration Trainer::Waited() const {
  return control_.waited() + groups_.sync_batch_norm()->waited() + reducer_->waited();
}

model::LossResult Trainer::Forward(const std::shared_ptr<data::Batch>& batch) {
  const model::TrainBatch inputs = ToTrainBatch(batch, device_);
  const model::AutocastGuard autocast(
      device_.type(), job_.schedule().precision() == config::v1::PRECISION_BFLOAT16);
  model::LossResult losses = model_->Loss(inputs, *sampler_);
  // The reducer averages over ranks; what is wanted is the average over images.
  const int64_t own = int64_t{batch->images()} * control_.size();
  if (own != ImagesPerPass()) {
    const double weight = static_cast<double>(own) / static_cast<double>(ImagesPerPass());
    for (at::Tensor* part :
         {&losses.loss_rpn_cls, &losses.loss_rpn_bbox, &losses.loss_cls, &losses.loss_bbox}) {
      *part = *part * weight;
    }
  }
  return losses;
}

StepAgreement Trainer::AgreeOn(const model::LossResult& losses, const data::Batch& batch) {
  const StepVote vote{.losses = LossValues(losses),
                      .stop = StopAsked(),
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

double Trainer::Update(double rate) {
  const double norm = ClipGradients(sgd_->parameters(), job_.schedule().grad_clip_norm());
  // The averaged gradients are the same on all ranks, and so is the decision.
  if (!std::isfinite(norm)) {
    throw TrainingFailure(
        base::kExitNonFinite,
        absl::StrCat("the gradients' norm is ", norm, " at step ", position_.step + 1,
                     ", with finite losses; nothing was updated: lower schedule.optimizer.lr or "
                     "set schedule.grad_clip_norm"));
  }
  sgd_->Step(rate);
  sgd_->ZeroGradients();
  return norm;
}

void Trainer::RecordStep(const PhaseClock& clock, const StepAgreement& agreement, double rate,
                         double grad_norm, int64_t images, absl::Duration waited) {
  ++steps_done_;
  if (steps_done_ == 1 && control_.rank() == 0) {
    base::Log(base::LogSeverity::kInfo, "trainer", "the first step is done",
              {{"step", position_.step}, {"seconds", absl::ToDoubleSeconds(clock.total())}});
  }
  if (log_ != nullptr) {
    log_->AddStep({.step = position_.step,
                   .epoch = position_.epoch + 1,
                   .step_in_epoch = StepsPerEpoch() - StepsLeft(),
                   .losses = agreement.losses,
                   .loss = agreement.total(),
                   .learning_rate = rate,
                   .grad_norm = grad_norm,
                   .images = static_cast<int>(images),
                   .duration = clock.total(),
                   .data_duration = clock.phases().at("data")});
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
  report.set_wait_seconds(absl::ToDoubleSeconds(waited));
  for (const auto& [phase, duration] : clock.phases()) {
    internal::PhaseDuration* item = report.add_phases();
    item->set_phase(phase);
    item->set_seconds(absl::ToDoubleSeconds(duration));
  }
  reporter_.Step(std::move(report));
}

}  // namespace muster::train
