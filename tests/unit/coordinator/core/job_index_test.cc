#include "coordinator/core/job_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/counter_random.h"
#include "coordinator/core/job_machine.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using v1::Job;

constexpr Job::State kStates[] = {Job::STATE_QUEUED, Job::STATE_RUNNING, Job::STATE_SUCCEEDED,
                                  Job::STATE_FAILED};

// The same as JobIndex::List, by a look at every job.
std::vector<int64_t> Scan(const std::map<int64_t, Job::State>& jobs, int limit, int64_t before,
                          const std::set<Job::State>& states, int64_t* next) {
  std::vector<int64_t> page;
  *next = 0;
  for (auto it = jobs.rbegin(); it != jobs.rend(); ++it) {
    if (before != 0 && it->first >= before) continue;
    if (!states.empty() && states.count(it->second) == 0) continue;
    if (static_cast<int>(page.size()) == limit) {
      *next = page.back();
      break;
    }
    page.push_back(it->first);
  }
  return page;
}

TEST(JobIndexTest, AnswersAsAScanDoesAfterRandomChanges) {
  coordinator::JobIndex index;
  std::map<int64_t, Job::State> jobs;
  coordinator::JobMachine machine({}, {});
  for (uint64_t seed = 0; seed < 20; ++seed) {
    base::CounterRandom random(seed, 0, 0, "job_index_test");
    const auto any_state = [&] { return kStates[random.NextBelow(std::size(kStates))]; };
    for (int step = 0; step < 500; ++step) {
      const auto sequence = static_cast<int64_t>(1 + random.NextBelow(60));
      if (random.NextBelow(4) == 0) {
        index.Erase(sequence);
        jobs.erase(sequence);
      } else {
        jobs[sequence] = any_state();
        index.Put(sequence, &machine, jobs[sequence]);
        ASSERT_EQ(index.Get(sequence), &machine);
      }
      for (const Job::State state : kStates) {
        ASSERT_EQ(index.Count(state), std::count_if(jobs.begin(), jobs.end(), [&](const auto& job) {
                    return job.second == state;
                  }));
      }
      std::set<Job::State> states;
      for (uint64_t i = random.NextBelow(3); i > 0; --i) states.insert(any_state());
      const int limit = static_cast<int>(1 + random.NextBelow(10));
      const auto before = static_cast<int64_t>(random.NextBelow(64));
      int64_t next = 0;
      int64_t wanted_next = 0;
      ASSERT_EQ(index.List(limit, before, states, &next),
                Scan(jobs, limit, before, states, &wanted_next));
      ASSERT_EQ(next, wanted_next) << "seed " << seed << " step " << step;
    }
  }
}

// The cluster's lists and counts, against each job looked up by its name.
TEST(JobIndexTest, FollowsEveryJobOfACluster) {
  coordinator::ClusterState::Options options;
  options.keep_finished = 5;
  ClusterDriver driver(options);
  for (const char* node : {"a", "b", "c"}) driver.Join(node, 2);
  base::CounterRandom random(7, 0, 0, "job_index_test");
  std::deque<std::string> names;
  for (int step = 0; step < 600; ++step) {
    const auto any = [&] { return names[random.NextBelow(names.size())]; };
    const uint64_t choice = names.empty() ? 0 : random.NextBelow(6);
    if (choice == 0) {
      names.push_back(
          driver.Submit(absl::StrCat("j", step), 1 + static_cast<int>(random.NextBelow(3))));
    } else if (choice == 1) {
      if (const std::string name = any(); driver.state().FindJob(name) != nullptr) {
        driver.Cancel(name);
      }
    } else if (choice == 5) {
      driver.Advance(absl::Seconds(1));
    } else if (const std::string name = any(); driver.state().FindJob(name) != nullptr) {
      constexpr v1::AllocationStatus::Phase kPhases[] = {
          v1::AllocationStatus::PHASE_PREPARED, v1::AllocationStatus::PHASE_RUNNING,
          v1::AllocationStatus::PHASE_SUCCEEDED, v1::AllocationStatus::PHASE_STOPPED};
      const auto phase = kPhases[random.NextBelow(std::size(kPhases))];
      for (const std::string& node : driver.NodesOf(name)) {
        if (driver.Allocation(node, name).has_value() ||
            phase == v1::AllocationStatus::PHASE_STOPPED) {
          driver.Report(node, name, phase);
        }
      }
    }
    std::map<Job::State, int> counts = driver.state().CountJobs();
    std::map<Job::State, std::vector<std::string>> by_state;
    for (auto name = names.rbegin(); name != names.rend(); ++name) {
      const Job* job = driver.state().FindJob(*name);
      if (job != nullptr) by_state[job->state()].push_back(*name);
    }
    for (const auto& [state, count] : counts) {
      ASSERT_EQ(count, static_cast<int>(by_state[state].size())) << Job::State_Name(state);
      int64_t next = 0;
      std::vector<std::string> listed;
      for (const Job& job : driver.state().ListJobs(1000, 0, {state}, &next)) {
        listed.push_back(job.name());
      }
      ASSERT_EQ(listed, by_state[state]) << Job::State_Name(state) << " step " << step;
    }
  }
}

}  // namespace
}  // namespace muster::testing
