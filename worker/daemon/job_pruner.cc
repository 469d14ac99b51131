#include "worker/daemon/job_pruner.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cinttypes>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/log.h"

namespace muster::worker {

JobPruner::JobPruner(Options options, Deps deps)
    : options_(std::move(options)), deps_(std::move(deps)) {}

JobPruner::~JobPruner() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void JobPruner::Start() {
  thread_ = std::thread([this] { Run(); });
}

void JobPruner::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), options_.interval)) return;
    }
    Prune();
  }
}

int64_t JobPruner::MostBytes() const {
  if (options_.keep_bytes > 0) return options_.keep_bytes;
  struct statvfs disk {};
  if (statvfs(deps_.state->path().c_str(), &disk) != 0) return INT64_MAX;
  return static_cast<int64_t>(disk.f_blocks * disk.f_frsize / 2);
}

absl::StatusOr<bool> JobPruner::IsOver(const StateFolder::JobFolder& folder) const {
  const absl::StatusOr<std::optional<v1::Job>> known = deps_.find_job(folder.job);
  if (!known.ok()) return known.status();
  if (!known->has_value()) return true;
  const v1::Job& job = **known;
  // Another job has the name now.
  if (!absl::StartsWith(job.uid(), folder.uid)) return true;
  return job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
         job.state() == v1::Job::STATE_CANCELLED;
}

void JobPruner::PruneGenerations(const StateFolder::JobFolder& folder) const {
  const int surplus = static_cast<int>(folder.generations.size()) - options_.keep_generations;
  for (int i = 0; i < surplus; ++i) {
    const int64_t generation = folder.generations[static_cast<size_t>(i)];
    const absl::Status removed = deps_.state->RemoveGeneration(folder, generation);
    if (removed.ok()) {
      base::Log(base::LogSeverity::kInfo, "worker", "removed the logs of an old generation",
                {{"job", folder.job}, {"generation", generation}});
    } else if (!absl::IsFailedPrecondition(removed)) {
      base::Log(base::LogSeverity::kWarning, "worker", removed.message());
    }
  }
}

void JobPruner::Prune() {
  absl::MutexLock one(&pruning_);
  deps_.state->RemoveTrash();
  const absl::Time now = deps_.clock->Now();
  std::vector<StateFolder::JobFolder> folders = deps_.state->ListJobs();
  for (const StateFolder::JobFolder& folder : folders) PruneGenerations(folder);

  std::sort(folders.begin(), folders.end(),
            [](const auto& a, const auto& b) { return a.last_write < b.last_write; });
  const std::set<std::string> held = deps_.held();
  // All that has ended counts; only what is too old, or too much, is asked for.
  int64_t bytes = 0;
  for (const StateFolder::JobFolder& folder : folders) {
    if (held.count(folder.job) == 0) bytes += folder.bytes;
  }
  const int64_t most_bytes = MostBytes();
  for (const StateFolder::JobFolder& folder : folders) {
    if (held.count(folder.job) > 0 || folder.has_record) continue;
    const absl::Duration age = now - folder.last_write;
    const bool old = age > options_.keep_for;
    const bool too_much = bytes > most_bytes && age > options_.keep_at_least;
    if (!old && !too_much) continue;
    const absl::StatusOr<bool> over = IsOver(folder);
    if (!over.ok()) {
      base::Log(base::LogSeverity::kWarning, "worker",
                "cannot ask whether old jobs are over; their files stay for now",
                {{"job", folder.job}, {"reason", over.status().message()}});
      return;
    }
    if (!*over) continue;
    if (absl::Status removed = deps_.state->RemoveJob(folder); !removed.ok()) {
      base::Log(base::LogSeverity::kWarning, "worker", removed.message());
      continue;
    }
    bytes -= folder.bytes;
    base::Log(base::LogSeverity::kInfo, "worker",
              old ? "removed the files of a job that ended long ago"
                  : "removed the files of a job that has ended: all of them take too much space",
              {{"job", folder.job},
               {"folder", folder.path.string()},
               {"bytes", folder.bytes},
               {"last_write", absl::FormatTime(folder.last_write, absl::UTCTimeZone())}});
  }
}

}  // namespace muster::worker
