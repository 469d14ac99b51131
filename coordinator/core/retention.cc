// The part of ClusterState that forgets jobs which ended long ago, or of which there are too many.
#include <utility>

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

// So that one commit does not get long after a change of the limits.
constexpr int kForgottenInOneStep = 200;

}  // namespace

void ClusterState::NoteFinished(const JobMachine& job) {
  if (!job.Terminal()) return;
  finished_.insert({FromTimestamp(job.job().end_time()), job.record().submit_sequence()});
}

void ClusterState::ForgetFinishedJobs(Step* step) {
  Writes forgotten;
  for (int i = 0; i < kForgottenInOneStep && !finished_.empty(); ++i) {
    const auto [end, sequence] = *finished_.begin();
    const bool old = end + options_.keep_finished_for <= step->now.wall;
    if (!old && finished_.size() <= options_.keep_finished) break;
    const std::string name = index_.Get(sequence)->job().name();
    finished_.erase(finished_.begin());
    index_.Erase(sequence);
    jobs_.erase(name);
    events_.Forget(name);
    changed_jobs_.erase(name);
    forgotten.expired_jobs.insert(name);
  }
  step->effects.writes.Merge(std::move(forgotten));
}

}  // namespace muster::coordinator
