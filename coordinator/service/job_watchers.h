#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "muster/v1/job.pb.h"

namespace muster::coordinator {

// Hears of one job's changes. Called on the state thread: must be quick.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;
  virtual void JobChanged(const v1::Job& job, const std::vector<v1::JobEvent>& new_events) = 0;
  // The coordinator stops.
  virtual void WatchEnded() = 0;
};

// Who watches which job. Thread-safe; a watcher may hear of one more change after Remove.
class JobWatchers {
 public:
  void Add(const std::string& job, std::shared_ptr<JobWatcher> watcher);
  void Remove(const std::string& job, const std::shared_ptr<JobWatcher>& watcher);
  bool Watched(const std::string& job) const;
  void Publish(const v1::Job& job, const std::vector<v1::JobEvent>& new_events);
  // Ends all watches; later ones end at once.
  void Stop();

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, std::set<std::shared_ptr<JobWatcher>>> watchers_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace muster::coordinator
