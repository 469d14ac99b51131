#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "muster/v1/job.pb.h"

namespace muster::coordinator {

class JobMachine;

// All jobs by JobRecord::submit_sequence, and of each state, so that a page of a list and a count
// cost no look at the other jobs. Not thread-safe.
class JobIndex {
 public:
  // New, or in another state than before. The job must stay where it is until Erase.
  void Put(int64_t sequence, JobMachine* job, v1::Job::State state);
  void Erase(int64_t sequence);
  // The job must be there.
  JobMachine* Get(int64_t sequence) const { return jobs_.at(sequence).job; }

  int Count(v1::Job::State state) const;
  // Sequences, newest first: up to `limit` below `before` (0: from the newest), only in `states`
  // (empty: all). *next is the `before` of the next page, 0 when there is none.
  std::vector<int64_t> List(int limit, int64_t before, const std::set<v1::Job::State>& states,
                            int64_t* next) const;

 private:
  struct Entry {
    JobMachine* job = nullptr;
    v1::Job::State state = v1::Job::STATE_UNSPECIFIED;
  };
  std::map<int64_t, Entry> jobs_;
  std::map<v1::Job::State, std::set<int64_t>> by_state_;
};

}  // namespace muster::coordinator
