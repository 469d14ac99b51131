#include "coordinator/service/job_watchers.h"

#include <utility>

namespace muster::coordinator {

void JobWatchers::Add(const std::string& job, std::shared_ptr<JobWatcher> watcher) {
  {
    absl::MutexLock lock(&mutex_);
    if (!stopped_) {
      watchers_[job].insert(std::move(watcher));
      return;
    }
  }
  watcher->WatchEnded();
}

void JobWatchers::Remove(const std::string& job, const std::shared_ptr<JobWatcher>& watcher) {
  absl::MutexLock lock(&mutex_);
  auto it = watchers_.find(job);
  if (it == watchers_.end()) return;
  it->second.erase(watcher);
  if (it->second.empty()) watchers_.erase(it);
}

bool JobWatchers::Watched(const std::string& job) const {
  absl::MutexLock lock(&mutex_);
  return watchers_.count(job) > 0;
}

void JobWatchers::Publish(const v1::Job& job, const std::vector<v1::JobEvent>& new_events) {
  std::set<std::shared_ptr<JobWatcher>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    auto it = watchers_.find(job.name());
    if (it == watchers_.end()) return;
    watchers = it->second;
  }
  for (const auto& watcher : watchers) watcher->JobChanged(job, new_events);
}

void JobWatchers::Stop() {
  std::map<std::string, std::set<std::shared_ptr<JobWatcher>>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    watchers.swap(watchers_);
  }
  for (const auto& [job, of_job] : watchers) {
    for (const auto& watcher : of_job) watcher->WatchEnded();
  }
}

}  // namespace muster::coordinator
