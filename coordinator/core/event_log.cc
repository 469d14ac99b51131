#include "coordinator/core/event_log.h"

#include <algorithm>
#include <utility>

namespace muster::coordinator {

void EventLog::Add(v1::JobEvent event) {
  const int64_t sequence = event.sequence();
  newest_ = std::max(newest_, sequence);
  if (event.job().empty()) {
    without_job_.push_back(sequence);
    if (without_job_.size() > kKeptOfNodes) {
      events_.erase(without_job_.front());
      without_job_.pop_front();
    }
  } else {
    std::vector<int64_t>& of_job = by_parent_[event.job()];
    of_job.push_back(sequence);
    if (of_job.size() > kKeptOfJob) {
      events_.erase(of_job.front());
      of_job.erase(of_job.begin());
    }
  }
  if (!event.node().empty()) {
    std::vector<int64_t>& of_node = by_parent_[event.node()];
    of_node.push_back(sequence);
    if (of_node.size() > kKeptOfJob) of_node.erase(of_node.begin());
  }
  events_.emplace_hint(events_.end(), sequence, std::move(event));
}

void EventLog::Forget(const std::string& job) {
  auto fellows = by_parent_.find(job);
  if (fellows == by_parent_.end()) return;
  for (const int64_t sequence : fellows->second) events_.erase(sequence);
  by_parent_.erase(fellows);
}

std::vector<v1::JobEvent> EventLog::List(const std::string& parent, int64_t after_sequence,
                                         int limit, bool* more) const {
  std::vector<v1::JobEvent> page;
  *more = false;
  auto add = [&](const v1::JobEvent& event) {
    *more = static_cast<int>(page.size()) == limit;
    if (!*more) page.push_back(event);
    return !*more;
  };
  if (parent.empty()) {
    for (auto it = events_.upper_bound(after_sequence); it != events_.end(); ++it) {
      if (!add(it->second)) break;
    }
    return page;
  }
  auto index = by_parent_.find(parent);
  if (index == by_parent_.end()) return page;
  const std::vector<int64_t>& sequences = index->second;
  for (auto it = std::upper_bound(sequences.begin(), sequences.end(), after_sequence);
       it != sequences.end(); ++it) {
    auto event = events_.find(*it);
    if (event != events_.end() && !add(event->second)) break;
  }
  return page;
}

}  // namespace muster::coordinator
