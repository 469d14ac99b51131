// The cluster at random: tests/support/simulated_cluster.h. A failure says how to replay its seed.
//
//   MUSTER_SIMULATION_SEED=17   only this one
//   MUSTER_SIMULATION_FULL=1    10,000 seeds of 20 nodes and 2,000 events, 10 of 5,000 nodes
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "tests/support/simulated_cluster.h"

namespace muster::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using v1::Allocation;
using v1::AllocationStatus;

bool Full() { return std::getenv("MUSTER_SIMULATION_FULL") != nullptr; }

uint64_t OnlySeed() {
  const char* text = std::getenv("MUSTER_SIMULATION_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

SimulatedCluster::Options Size(int nodes, int slots, int events) {
  SimulatedCluster::Options options;
  options.nodes = nodes;
  options.slots = slots;
  options.events = events;
  return options;
}

// Returns what happened, by type of event. The full run takes a thread for each core; a seed's run
// is the same on any.
std::map<std::string, int> RunSeeds(uint64_t first, uint64_t last,
                                    const SimulatedCluster::Options& options) {
  if (OnlySeed() != 0) first = last = OnlySeed();
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::atomic<uint64_t> next = first;
  absl::Mutex mutex;
  std::map<std::string, int> seen;
  const auto run = [&] {
    for (uint64_t seed = next++; seed <= last; seed = next++) {
      SimulatedCluster::Options chosen = options;
      chosen.clock_jumps = seed % 2 == 0;
      chosen.quiet = seed % 3 == 0;
      chosen.failure_in = seed % 5 == 0 ? 3 : chosen.quiet ? 40 : 8;
      SimulatedCluster cluster(seed, chosen);
      cluster.Run();
      absl::MutexLock lock(&mutex);
      cluster.CountEvents(&seen);
      if (cluster.violation().empty()) continue;
      next = last + 1;
      ADD_FAILURE() << "seed " << seed << ": " << cluster.violation() << "\nreplay: "
                    << "MUSTER_SIMULATION_SEED=" << seed
                    << (Full() ? " MUSTER_SIMULATION_FULL=1" : "")
                    << " build/dev/tests/unit.coordinator.core.simulation_test --gtest_filter="
                    << test->test_suite_name() << "." << test->name();
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 1; Full() && i < std::thread::hardware_concurrency(); ++i) {
    threads.emplace_back(run);
  }
  run();
  for (std::thread& thread : threads) thread.join();
  return seen;
}

TEST(SimulationTest, InvariantsHoldAndEveryJobEnds) {
  const std::map<std::string, int> seen = RunSeeds(1, 200, Size(5, 2, 400));
  if (OnlySeed() != 0 || HasFailure()) return;
  // Otherwise the seeds went past what they are for.
  for (const char* type : {"Running",
                           "Succeeded",
                           "Failed",
                           "Cancelled",
                           "RankFailed",
                           "NodeLost",
                           "Restarting",
                           "StartTimeout",
                           "Checkpoint",
                           "given up",
                           "Preempted",
                           "Growing",
                           "Draining",
                           "SetAside",
                           "RunTimeUsedUp",
                           "MaintenanceApproved",
                           "MaintenanceOver",
                           "store outage",
                           "killed in a store outage",
                           "Fetching",
                           "CheckpointMissing"}) {
    EXPECT_GT(seen.count(type) > 0 ? seen.at(type) : 0, 0) << type;
  }
  EXPECT_EQ(seen.count("CheckpointRejected"), 0u);
}

TEST(SimulationTest, LargerClusters) {
  if (Full()) {
    RunSeeds(1, 10'000, Size(20, 4, 2'000));
  } else {
    RunSeeds(1'001, 1'010, Size(20, 4, 400));
  }
}

TEST(SimulationTest, ThousandsOfNodes) {
  if (Full()) {
    RunSeeds(1, 10, Size(5'000, 8, 10'000));
  } else {
    RunSeeds(2'001, 2'001, Size(200, 8, 300));
  }
}

// A defect that some seed must show, and what is said of it.
std::string FindDefect(const std::function<void(SimulatedCluster::Options*)>& plant) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SimulatedCluster::Options options;
    options.events = 400;
    plant(&options);
    SimulatedCluster cluster(seed, options);
    cluster.Run();
    if (!cluster.violation().empty()) return cluster.violation();
  }
  return "";
}

TEST(SimulationDefectTest, SlotGivenTwice) {
  EXPECT_THAT(FindDefect([](SimulatedCluster::Options* options) {
                options->change_desired = [](const std::string&, v1::DesiredState* desired) {
                  if (desired->allocations().empty()) return;
                  for (int rank = 0; rank < 2; ++rank) {
                    desired->mutable_allocations(0)->add_ranks(100 + rank);
                  }
                };
              }),
              HasSubstr("is to run more beside what it has not ended"));
}

TEST(SimulationDefectTest, OldGenerationIsStillWanted) {
  std::map<std::string, Allocation> first;
  EXPECT_THAT(FindDefect([&](SimulatedCluster::Options* options) {
                first.clear();
                options->slots = 8;
                options->change_desired = [&](const std::string& node, v1::DesiredState* desired) {
                  if (first.count(node) == 0 && !desired->allocations().empty()) {
                    first[node] = desired->allocations(0);
                  }
                  if (first.count(node) > 0 && desired->allocations().empty()) {
                    *desired->add_allocations() = first[node];
                  }
                };
              }),
              HasSubstr(", which is over"));
}

TEST(SimulationDefectTest, HalfAGang) {
  EXPECT_THAT(FindDefect([](SimulatedCluster::Options* options) {
                options->change_desired = [](const std::string& node, v1::DesiredState* desired) {
                  if (node == "n1") desired->clear_allocations();
                };
              }),
              HasSubstr("of whose gang it is a part"));
}

TEST(SimulationDefectTest, SubmissionIsLost) {
  EXPECT_THAT(FindDefect([](SimulatedCluster::Options* options) {
                options->change_effects = [](coordinator::Effects* effects) {
                  effects->writes.jobs.erase("jobs/j3");
                };
              }),
              StartsWith("jobs/j3 was acknowledged and is lost"));
}

TEST(SimulationDefectTest, ActsOnWhatIsNotStored) {
  EXPECT_NE(
      FindDefect([](SimulatedCluster::Options* options) { options->act_without_store = true; }),
      "");
}

TEST(SimulationDefectTest, EndIsLost) {
  EXPECT_THAT(
      FindDefect([](SimulatedCluster::Options* options) {
        options->change_effects = [](coordinator::Effects* effects) {
          for (auto it = effects->writes.jobs.begin(); it != effects->writes.jobs.end();) {
            const bool ended = it->second.job().state() >= v1::Job::STATE_SUCCEEDED;
            it = ended ? effects->writes.jobs.erase(it) : std::next(it);
          }
        };
      }),
      ::testing::AnyOf(HasSubstr("had ended and goes on"), HasSubstr("was cancelled and goes on")));
}

TEST(SimulationDefectTest, CordonIsLost) {
  EXPECT_THAT(FindDefect([](SimulatedCluster::Options* options) {
                options->change_effects = [](coordinator::Effects* effects) {
                  for (auto& [name, record] : effects->writes.nodes) record.set_cordoned(false);
                };
              }),
              HasSubstr("the cordon of "));
}

TEST(SimulationDefectTest, JobThatNeverEnds) {
  EXPECT_THAT(FindDefect([](SimulatedCluster::Options* options) {
                options->lose_status = [](const AllocationStatus& status) {
                  return status.phase() == AllocationStatus::PHASE_SUCCEEDED;
                };
              }),
              HasSubstr(" never ends: "));
}

}  // namespace
}  // namespace muster::testing
