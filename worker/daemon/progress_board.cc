#include "worker/daemon/progress_board.h"

#include <algorithm>

namespace muster::worker {

void ProgressBoard::Update(const internal::TrainerReport& report) {
  if (!report.has_step()) return;
  const internal::StepReport& step = report.step();
  absl::MutexLock lock(&mutex_);
  Rank& rank = ranks_[{report.job(), report.generation(), report.rank()}];
  rank.progress = step.progress();
  if (step.step_durations_seconds().empty()) return;
  rank.steps += step.step_durations_seconds_size();
  for (const double seconds : step.step_durations_seconds()) rank.seconds += seconds;
  rank.wait_seconds += step.wait_seconds();
}

void ProgressBoard::Forget(const std::string& job, int64_t generation) {
  absl::MutexLock lock(&mutex_);
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    const auto& [rank_job, rank_generation, rank] = it->first;
    it = rank_job == job && rank_generation == generation ? ranks_.erase(it) : std::next(it);
  }
}

void ProgressBoard::Fill(v1::Heartbeat* heartbeat) {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, entry] : ranks_) {
    const auto& [job, generation, rank] = key;
    v1::RankProgress* told = heartbeat->add_ranks();
    told->set_job(job);
    told->set_generation(generation);
    told->set_rank(rank);
    told->set_step(entry.progress.step());
    told->set_phase(entry.progress.phase());
    if (entry.progress.phase() == v1::TrainProgress::PHASE_EVALUATING) {
      told->set_eval_images_left(entry.progress.eval_images_total() - entry.progress.eval_images());
    }
    if (entry.steps > 0) {
      told->set_compute_seconds(std::max(0.0, entry.seconds - entry.wait_seconds) / entry.steps);
      told->set_wait_seconds(entry.wait_seconds / entry.steps);
      entry.steps = 0;
      entry.seconds = 0;
      entry.wait_seconds = 0;
    }
    if (rank == 0) {
      v1::JobProgress* job_entry = heartbeat->add_jobs();
      job_entry->set_job(job);
      job_entry->set_generation(generation);
      *job_entry->mutable_progress() = entry.progress;
    }
  }
}

std::optional<v1::TrainProgress> ProgressBoard::Find(const std::string& job, int64_t generation,
                                                     int rank) const {
  absl::MutexLock lock(&mutex_);
  const auto it = ranks_.find({job, generation, rank});
  if (it == ranks_.end()) return std::nullopt;
  return it->second.progress;
}

}  // namespace muster::worker
