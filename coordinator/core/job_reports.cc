// The part of JobMachine that takes what a running job says of itself.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "coordinator/core/job_machine.h"
#include "coordinator/core/lineage.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {

void JobMachine::NoteAdvance(absl::string_view node, Instant now) {
  auto [it, inserted] = last_advance_.try_emplace(std::string(node), now.monotonic);
  if (!inserted) {
    const absl::Duration interval = now.monotonic - it->second;
    advance_interval_ = advance_interval_ == absl::ZeroDuration()
                            ? interval
                            : 0.7 * advance_interval_ + 0.3 * interval;
    it->second = now.monotonic;
  }
}

absl::Duration JobMachine::LastAdvanceElsewhere(absl::string_view node) const {
  absl::Duration newest = -absl::InfiniteDuration();
  for (const auto& [name, time] : last_advance_) {
    if (name != node) newest = std::max(newest, time);
  }
  return newest;
}

void JobMachine::ReportRankStep(absl::string_view node, const v1::RankProgress& progress,
                                Instant now, JobOutput* out) {
  if (progress.generation() != job().generation() || !Wanted()) return;
  if (progress.rank() < 0 || progress.rank() >= job().ranks_size()) return;
  v1::RankPlacement* rank = record_.mutable_job()->mutable_ranks(progress.rank());
  if (rank->node() != absl::StrCat("nodes/", node)) return;
  hang_watch_.See(progress.rank(), progress.phase());
  if (progress.phase() == v1::TrainProgress::PHASE_EVALUATING) {
    NoteEvaluation(progress.rank(), progress.eval_images_left(), now);
  }
  NoteStepTimes(progress, out);
  if (rank->step() == progress.step()) return;
  if (progress.step() > rank->step()) {
    NoteAdvance(node, now);
    NoteStep(progress.step(), now);
  }
  rank->set_step(progress.step());
  out->changed = true;
}

void JobMachine::ReportProgress(absl::string_view node, const v1::JobProgress& progress,
                                absl::Duration persist_interval, Instant now, JobOutput* out) {
  if (progress.generation() != job().generation() || !Wanted()) return;
  const v1::TrainProgress& before = job().progress();
  const v1::TrainProgress& after = progress.progress();
  if (after.step() > before.step() || after.eval_images() > before.eval_images()) {
    NoteAdvance(node, now);
    NoteMove(now);
  }
  hang_watch_.See(/*rank=*/0, after.phase());
  hang_watch_.SetFinished(after.total_steps() > 0 && after.step() >= after.total_steps());
  *record_.mutable_job()->mutable_progress() = after;
  if (after.has_eta()) eta_end_ = now.monotonic + FromProto(after.eta());
  out->changed = true;
  if (now.monotonic - progress_stored_ >= persist_interval) Touch(now, out);
}

void JobMachine::AddEvaluation(const v1::EvaluationReport& report, Instant now, JobOutput* out) {
  if (report.generation() != job().generation()) return;
  auto* all = record_.mutable_job()->mutable_evaluations();
  auto place = std::find_if(all->begin(), all->end(), [&](const v1::EvalResult& result) {
    return result.epoch() == report.result().epoch();
  });
  if (place != all->end()) {
    *place = report.result();
  } else {
    *all->Add() = report.result();
    std::sort(all->begin(), all->end(), [](const v1::EvalResult& a, const v1::EvalResult& b) {
      return a.epoch() < b.epoch();
    });
  }
  Touch(now, out);
  AddEvent("Evaluated",
           absl::StrFormat("epoch %d: AP %.4f, AP50 %.4f, AP75 %.4f", report.result().epoch(),
                           report.result().ap(), report.result().ap50(), report.result().ap75()),
           now, out);
}

void JobMachine::AddCheckpoint(absl::string_view node, const v1::Checkpoint& checkpoint,
                               Instant now, JobOutput* out) {
  switch (RegisterCheckpoint(checkpoint, std::string(node), &record_)) {
    case CheckpointNews::kKnown:
      return;
    case CheckpointNews::kNewHolder:
      // Nothing that anybody watches.
      out->persist = true;
      return;
    case CheckpointNews::kForeign:
      AddEvent("CheckpointRejected",
               absl::StrCat(checkpoint.file(), " on nodes/", node,
                            " was not written by a generation of this job"),
               now, out);
      return;
    case CheckpointNews::kDigestsDiffer:
      AddEvent("CheckpointRejected",
               absl::StrCat("step ", checkpoint.step(), " of generation ", checkpoint.generation(),
                            ": the digest on nodes/", node, " differs from another node's"),
               now, out);
      break;
    case CheckpointNews::kNew:
      NoteMove(now);
      AddEvent(
          "Checkpoint",
          absl::StrCat("step ", checkpoint.step(), " (", checkpoint.file(), ") on nodes/", node),
          now, out);
      break;
  }
  const v1::Checkpoint* newest = NewestCheckpoint(record_);
  if (newest != nullptr) {
    *record_.mutable_job()->mutable_newest_checkpoint() = *newest;
  } else {
    record_.mutable_job()->clear_newest_checkpoint();
  }
  Touch(now, out);
}

}  // namespace muster::coordinator
