// Backfill at random: what the first waiting job was promised is kept, whatever runs around it.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/counter_random.h"
#include "coordinator/core/timestamps.h"
#include "tests/support/cluster_driver.h"

namespace muster::testing {
namespace {

using v1::AllocationStatus;
using v1::Job;

constexpr int kNodes = 6;
constexpr int kSlots = 4;
constexpr absl::Duration kGrace = absl::Seconds(2);

// Nodes do not fail and all jobs are one creator's, of one priority, so that a promise is never
// void.
class BackfillSimulation {
 public:
  // `lie`: jobs run twice as long as their ETA says.
  BackfillSimulation(uint64_t seed, bool lie) : random_(seed, 0, 0, "backfill"), lie_(lie) {
    for (int i = 0; i < kNodes; ++i) {
      driver_.Join(absl::StrCat("n", i), 1 + static_cast<int>(random_.NextBelow(kSlots)));
    }
  }

  // Seconds by which the worst promise was broken.
  double Run() {
    for (int second = 0; second < 600; ++second) {
      if (random_.NextBelow(4) == 0) Submit();
      driver_.Advance(absl::Seconds(1));
      for (const std::string& name : jobs_) Look(name);
    }
    return worst_;
  }
  int backfilled() const { return backfilled_; }

 private:
  void Submit() {
    config::v1::Resources resources;
    resources.set_nodes(1 + random_.NextBelow(kNodes / 2));
    resources.set_ranks_per_node(1 + random_.NextBelow(2));
    const int64_t limit = 10 + static_cast<int64_t>(random_.NextBelow(60));
    resources.mutable_max_run_time()->set_seconds(lie_ ? 2 * limit : limit);
    *resources.mutable_grace_period() = coordinator::ToProto(kGrace);
    const std::string name = driver_.Submit(absl::StrCat("j", jobs_.size()), resources);
    jobs_.push_back(name);
    // It may be noticed two seconds late that it has started and ended.
    run_time_[name] = absl::Seconds(lie_ ? 2 * limit - 3
                                         : 1 + static_cast<int64_t>(random_.NextBelow(limit - 3)));
  }

  void Look(const std::string& name) {
    const Job job = driver_.job(name);
    if (job.state() == Job::STATE_QUEUED && job.has_expected_start_time()) {
      const absl::Time promised = coordinator::FromTimestamp(job.expected_start_time());
      promised_.try_emplace(name, promised);
      Late(promised, name);
    }
    if (job.state() == Job::STATE_STARTING && started_.count(name) == 0) {
      started_[name] = driver_.now().wall;
      driver_.BringUp(name);
      if (lie_) SayEta(name);
      if (promised_.count(name) > 0) Late(driver_.now().wall, name);
      backfilled_ += std::any_of(jobs_.begin(), jobs_.end(), [&](const std::string& other) {
        return driver_.job(other).state() == Job::STATE_QUEUED && Number(other) < Number(name);
      });
    }
    if (driver_.job(name).state() == Job::STATE_RUNNING &&
        driver_.now().wall - started_[name] >= run_time_[name]) {
      for (const std::string& node : driver_.NodesOf(name)) {
        driver_.Report(node, name, AllocationStatus::PHASE_SUCCEEDED);
      }
    }
  }

  void SayEta(const std::string& name) {
    coordinator::HeartbeatCommand command;
    command.session = driver_.session(driver_.NodesOf(name)[0]);
    v1::JobProgress* progress = command.heartbeat.add_jobs();
    progress->set_job(name);
    progress->set_generation(1);
    *progress->mutable_progress()->mutable_eta() = coordinator::ToProto(run_time_[name] / 2);
    driver_.Apply(command);
  }

  static int Number(const std::string& name) { return std::stoi(name.substr(6)); }

  void Late(absl::Time time, const std::string& name) {
    worst_ = std::max(worst_, absl::ToDoubleSeconds(time - promised_.at(name)));
  }

  base::CounterRandom random_;
  const bool lie_;
  ClusterDriver driver_;
  std::vector<std::string> jobs_;
  std::map<std::string, absl::Duration> run_time_;
  std::map<std::string, absl::Time> started_;
  std::map<std::string, absl::Time> promised_;
  double worst_ = 0;
  int backfilled_ = 0;
};

TEST(BackfillTest, ReservedGangIsNeverDelayed) {
  int backfilled = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    BackfillSimulation simulation(seed, /*lie=*/false);
    // The test looks once a second.
    EXPECT_LE(simulation.Run(), 1.0) << "seed " << seed;
    backfilled += simulation.backfilled();
  }
  EXPECT_GT(backfilled, 60) << "nothing was backfilled";
}

TEST(BackfillTest, DelayIsNoticed) {
  double worst = 0;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    worst = std::max(worst, BackfillSimulation(seed, /*lie=*/true).Run());
  }
  EXPECT_GT(worst, 5.0) << "jobs that run for longer than they said delay nobody";
}

}  // namespace
}  // namespace muster::testing
