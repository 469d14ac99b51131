#include "coordinator/core/job_index.h"

#include <algorithm>
#include <functional>
#include <iterator>

namespace muster::coordinator {

void JobIndex::Put(int64_t sequence, JobMachine* job, v1::Job::State state) {
  auto [it, is_new] = jobs_.try_emplace(sequence);
  if (!is_new) by_state_[it->second.state].erase(sequence);
  it->second = Entry{job, state};
  by_state_[state].insert(sequence);
}

void JobIndex::Erase(int64_t sequence) {
  auto it = jobs_.find(sequence);
  if (it == jobs_.end()) return;
  by_state_[it->second.state].erase(sequence);
  jobs_.erase(it);
}

int JobIndex::Count(v1::Job::State state) const {
  auto it = by_state_.find(state);
  return it == by_state_.end() ? 0 : static_cast<int>(it->second.size());
}

std::vector<int64_t> JobIndex::List(int limit, int64_t before,
                                    const std::set<v1::Job::State>& states, int64_t* next) const {
  std::vector<int64_t> page;
  *next = 0;
  if (limit <= 0) return page;
  const auto full = [&] { return static_cast<int>(page.size()) > limit; };
  if (states.empty()) {
    auto end = before == 0 ? jobs_.end() : jobs_.lower_bound(before);
    for (auto it = std::make_reverse_iterator(end); it != jobs_.rend() && !full(); ++it) {
      page.push_back(it->first);
    }
  } else {
    // The newest of each state are more than enough.
    for (const v1::Job::State state : states) {
      auto of_state = by_state_.find(state);
      if (of_state == by_state_.end()) continue;
      const std::set<int64_t>& sequences = of_state->second;
      auto end = before == 0 ? sequences.end() : sequences.lower_bound(before);
      int taken = 0;
      for (auto it = std::make_reverse_iterator(end); it != sequences.rend() && taken <= limit;
           ++it, ++taken) {
        page.push_back(*it);
      }
    }
    std::sort(page.begin(), page.end(), std::greater<>());
  }
  if (full()) {
    page.resize(limit);
    *next = page.back();
  }
  return page;
}

}  // namespace muster::coordinator
