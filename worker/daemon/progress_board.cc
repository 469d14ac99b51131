#include "worker/daemon/progress_board.h"

namespace muster::worker {

void ProgressBoard::Update(const internal::TrainerReport& report) {
  if (!report.has_step()) return;
  absl::MutexLock lock(&mutex_);
  ranks_[{report.job(), report.generation(), report.rank()}] = report.step().progress();
}

void ProgressBoard::Forget(const std::string& job, int64_t generation) {
  absl::MutexLock lock(&mutex_);
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    const auto& [rank_job, rank_generation, rank] = it->first;
    it = rank_job == job && rank_generation == generation ? ranks_.erase(it) : std::next(it);
  }
}

void ProgressBoard::Fill(v1::Heartbeat* heartbeat) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, progress] : ranks_) {
    const auto& [job, generation, rank] = key;
    v1::RankProgress* entry = heartbeat->add_ranks();
    entry->set_job(job);
    entry->set_generation(generation);
    entry->set_rank(rank);
    entry->set_step(progress.step());
    if (rank == 0) {
      v1::JobProgress* job_entry = heartbeat->add_jobs();
      job_entry->set_job(job);
      job_entry->set_generation(generation);
      *job_entry->mutable_progress() = progress;
    }
  }
}

}  // namespace muster::worker
