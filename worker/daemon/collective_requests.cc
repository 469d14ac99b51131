#include "worker/daemon/collective_requests.h"

#include <algorithm>
#include <utility>

namespace muster::worker {

void CollectiveRequests::Ask(const std::string& job, int64_t generation,
                             const std::vector<int>& ranks) {
  absl::MutexLock lock(&mutex_);
  Request& request = requests_[{job, generation}];
  request.open.insert(ranks.begin(), ranks.end());
}

bool CollectiveRequests::OnReport(const internal::TrainerReport& report) {
  absl::MutexLock lock(&mutex_);
  const auto it = requests_.find({report.job(), report.generation()});
  if (it == requests_.end()) return false;
  Request& request = it->second;
  if (report.has_collectives() && request.open.erase(report.rank()) > 0) {
    request.dumps[report.rank()] = report.collectives();
  }
  return request.open.count(report.rank()) > 0;
}

std::map<int, internal::CollectiveDump> CollectiveRequests::Collect(const std::string& job,
                                                                    int64_t generation,
                                                                    const std::set<int>& awaited,
                                                                    absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const Key key(job, generation);
  const auto all_there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto it = requests_.find(key);
    return it == requests_.end() || std::none_of(awaited.begin(), awaited.end(), [&](int rank) {
             return it->second.open.count(rank) > 0;
           });
  };
  mutex_.AwaitWithTimeout(absl::Condition(&all_there), timeout);
  const auto it = requests_.find(key);
  if (it == requests_.end()) return {};
  std::map<int, internal::CollectiveDump> dumps = std::move(it->second.dumps);
  requests_.erase(it);
  return dumps;
}

}  // namespace muster::worker
