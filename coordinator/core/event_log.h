#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "muster/v1/job.pb.h"

namespace muster::coordinator {

// The newest events: of each job, and of all nodes together. Not thread-safe.
class EventLog {
 public:
  static constexpr size_t kKeptOfJob = 500;
  // Without a job.
  static constexpr size_t kKeptOfNodes = 10000;

  // Sequence numbers must rise.
  void Add(v1::JobEvent event);
  // All of the job "jobs/x".
  void Forget(const std::string& job);
  // The highest sequence number so far, or 0.
  int64_t newest() const { return newest_; }
  // In order, up to `limit` events with a higher sequence number: of "jobs/x" or "nodes/x", or all
  // (parent ""). *more: there are more.
  std::vector<v1::JobEvent> List(const std::string& parent, int64_t after_sequence, int limit,
                                 bool* more) const;

 private:
  std::map<int64_t, v1::JobEvent> events_;
  // By "jobs/x" and "nodes/x". Of nodes, events may be gone that are still named here.
  std::unordered_map<std::string, std::vector<int64_t>> by_parent_;
  // Events without a job.
  std::deque<int64_t> without_job_;
  int64_t newest_ = 0;
};

}  // namespace muster::coordinator
