// A job whose ranks stand still: when the nodes are asked, and what becomes of the answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/cluster_driver.h"

namespace muster::coordinator {
namespace {

using ::testing::AllOf;
using testing::ClusterDriver;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// Jobs over the nodes a and b, a rank each.
class HangTest : public ::testing::Test {
 protected:
  explicit HangTest(const ClusterState::Options& options = {}) : driver_(options) {
    driver_.Observe([this](Effects* effects) {
      for (const SessionMessage& message : effects->messages) {
        if (message.message.has_diagnosis_request()) {
          requests_[message.session].push_back(message.message.diagnosis_request());
        }
      }
      for (const std::string& cause : effects->hangs) causes_.push_back(cause);
    });
    driver_.Join("a");
    driver_.Join("b");
  }

  std::string Run() {
    const std::string job = driver_.Submit("j", 2);
    driver_.BringUp(job);
    return job;
  }
  // A step a second.
  void Train(const std::string& job, int steps) {
    for (int i = 0; i < steps; ++i) {
      driver_.Advance(absl::Seconds(1));
      Heartbeat("a", job, ++step_);
      Heartbeat("b", job, step_);
    }
  }
  void Heartbeat(const std::string& node, const std::string& job, int64_t step,
                 v1::TrainProgress::Phase phase = v1::TrainProgress::PHASE_TRAINING,
                 int64_t eval_images_left = 0) {
    HeartbeatCommand command;
    command.session = driver_.session(node);
    v1::RankProgress* progress = command.heartbeat.add_ranks();
    progress->set_job(job);
    progress->set_generation(driver_.job(job).generation());
    progress->set_rank(node == "a" ? 0 : 1);
    progress->set_step(step);
    progress->set_phase(phase);
    progress->set_eval_images_left(eval_images_left);
    driver_.Apply(command);
  }
  std::vector<v1::DiagnosisRequest> RequestsTo(const std::string& node) {
    return requests_[driver_.session(node)];
  }
  // What the node answers to its newest request, of its only rank.
  v1::Diagnosis Answer(const std::string& node, const std::string& state) {
    v1::Diagnosis diagnosis;
    diagnosis.set_request_id(RequestsTo(node).back().request_id());
    diagnosis.set_job(RequestsTo(node).back().job());
    diagnosis.set_generation(RequestsTo(node).back().generation());
    v1::RankDiagnosis* rank = diagnosis.add_ranks();
    rank->set_rank(node == "a" ? 0 : 1);
    rank->set_process_state(state);
    return diagnosis;
  }
  void Say(const std::string& node, const v1::Diagnosis& diagnosis) {
    driver_.Apply(DiagnosisCommand{driver_.session(node), diagnosis});
  }
  static void WaitIn(v1::Diagnosis* diagnosis, int64_t sequence) {
    v1::CollectiveRecord* record = diagnosis->mutable_ranks(0)->add_collectives();
    record->set_group("sync_bn");
    record->set_operation("all_gather");
    record->set_sequence(sequence);
    record->set_state(v1::CollectiveRecord::STATE_SCHEDULED);
  }

  ClusterDriver driver_;
  std::map<SessionId, std::vector<v1::DiagnosisRequest>> requests_;
  std::vector<std::string> causes_;
  int64_t step_ = 0;
};

TEST_F(HangTest, TheCulpritIsNamedAndTheJobGoesOn) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Advance(absl::Seconds(14));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  driver_.Advance(absl::Seconds(2));
  ASSERT_THAT(RequestsTo("a"), SizeIs(1));
  ASSERT_THAT(RequestsTo("b"), SizeIs(1));
  EXPECT_EQ(RequestsTo("a")[0].job(), job);
  EXPECT_EQ(RequestsTo("a")[0].generation(), 1);
  ASSERT_THAT(RequestsTo("a")[0].peers(), SizeIs(1));
  EXPECT_EQ(RequestsTo("a")[0].peers(0).node(), "b");
  EXPECT_EQ(RequestsTo("b")[0].peers(0).node(), "a");

  v1::Diagnosis waits = Answer("a", "S");
  WaitIn(&waits, 4711);
  Say("a", waits);
  driver_.Advance(absl::Seconds(1));
  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RUNNING) << "b has not answered";
  v1::Diagnosis stopped = Answer("b", "T");
  stopped.mutable_ranks(0)->set_stack("thread 1 (muster-trainer)\n  #0 main\n");
  Say("b", stopped);
  driver_.Advance(absl::Milliseconds(250));

  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RESTARTING);
  EXPECT_THAT(driver_.job(job).state_reason(),
              AllOf(HasSubstr("hang: rank 1 on nodes/b made no step for "),
                    HasSubstr(": its process is stopped (state T); rank 0 waits for it in sync_bn "
                              "all_gather 4711")));
  EXPECT_THAT(driver_.EventTypes(job), Contains("Hang"));
  EXPECT_THAT(driver_.job(job).first_failure().stderr_tail(),
              ElementsAre("thread 1 (muster-trainer)", "  #0 main"));
  EXPECT_EQ(driver_.job(job).first_failure().node(), "nodes/b");
  EXPECT_THAT(causes_, ElementsAre("process"));
  EXPECT_FALSE(driver_.Allocation("a", job).has_value());

  for (const char* node : {"a", "b"})
    driver_.Report(node, job, v1::AllocationStatus::PHASE_STOPPED);
  EXPECT_EQ(driver_.job(job).restarts(), 1);
  for (const char* node : {"a", "b"}) driver_.Join(node);
  driver_.Advance(absl::Minutes(1));
  EXPECT_EQ(driver_.job(job).generation(), 2);
}

TEST_F(HangTest, ANodeWhoseProcessesAreStoppedAgainAndAgainIsSetAside) {
  driver_.Join("c");
  const std::string job = Run();
  for (int generation = 1; generation <= 3; ++generation) {
    ASSERT_EQ(driver_.job(job).generation(), generation);
    step_ = 0;
    Train(job, 10);
    driver_.Advance(absl::Seconds(16));
    Say("a", Answer("a", "S"));
    Say("b", Answer("b", "T"));
    driver_.Advance(absl::Milliseconds(250));
    for (const char* node : {"a", "b"}) {
      driver_.Report(node, job, v1::AllocationStatus::PHASE_STOPPED);
      driver_.Join(node);
    }
    driver_.Advance(absl::Minutes(1));
    if (generation < 3) driver_.BringUp(job);
  }
  EXPECT_TRUE(driver_.state().FindNode("nodes/b")->cordoned());
  EXPECT_FALSE(driver_.state().FindNode("nodes/a")->cordoned());
  EXPECT_THAT(driver_.NodesOf(job), ElementsAre("a", "c"));
}

TEST_F(HangTest, ANodeThatDoesNotAnswerIsNotWaitedForLong) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Advance(absl::Seconds(16));
  v1::Diagnosis waits = Answer("a", "S");
  WaitIn(&waits, 12);
  Say("a", waits);
  driver_.Advance(absl::Seconds(12));
  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RESTARTING);
  EXPECT_THAT(driver_.job(job).state_reason(), HasSubstr("nodes/b did not answer"));
}

TEST_F(HangTest, AStepMeanwhileEndsTheInquiry) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Advance(absl::Seconds(16));
  ASSERT_THAT(RequestsTo("a"), SizeIs(1));
  const v1::Diagnosis late_a = Answer("a", "S");
  const v1::Diagnosis late_b = Answer("b", "T");
  Heartbeat("a", job, ++step_);
  Say("a", late_a);
  Say("b", late_b);
  driver_.Advance(absl::Seconds(12));
  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RUNNING);
  EXPECT_THAT(driver_.EventTypes(job), Not(Contains("Hang")));
  // The job has shown that it needs so long at times.
  Heartbeat("b", job, step_);
  driver_.Advance(absl::Seconds(40));
  EXPECT_THAT(RequestsTo("a"), SizeIs(1));
  driver_.Advance(absl::Seconds(30));
  EXPECT_THAT(RequestsTo("a"), SizeIs(2));
}

TEST_F(HangTest, ARankThatStandsStillInAnEvaluationIsNamed) {
  const std::string job = Run();
  Train(job, 10);
  const auto evaluate = [&](const std::string& node, int64_t left) {
    Heartbeat(node, job, step_, v1::TrainProgress::PHASE_EVALUATING, left);
  };
  for (int64_t left = 20; left >= 0; --left) {
    evaluate("a", left);
    evaluate("b", std::max<int64_t>(left, 12));
    driver_.Advance(absl::Seconds(1));
  }
  EXPECT_THAT(RequestsTo("b"), IsEmpty()) << "a goes on";
  driver_.Advance(absl::Seconds(15));
  ASSERT_THAT(RequestsTo("b"), SizeIs(1));
  Say("a", Answer("a", "S"));
  Say("b", Answer("b", "T"));
  driver_.Advance(absl::Milliseconds(250));
  EXPECT_NE(driver_.job(job).state(), v1::Job::STATE_RUNNING);
  EXPECT_EQ(driver_.job(job).first_failure().node(), "nodes/b");
}

TEST_F(HangTest, ARankThatEvaluatesOnIsLetAlone) {
  const std::string job = Run();
  Train(job, 10);
  for (int64_t left = 20; left > 10; --left) {
    for (const char* node : {"a", "b"}) {
      Heartbeat(node, job, step_, v1::TrainProgress::PHASE_EVALUATING, left);
    }
    driver_.Advance(absl::Seconds(1));
  }
  driver_.Advance(absl::Seconds(15));
  ASSERT_THAT(RequestsTo("b"), SizeIs(1));
  Heartbeat("b", job, step_, v1::TrainProgress::PHASE_EVALUATING, 10);
  Say("a", Answer("a", "S"));
  Say("b", Answer("b", "T"));
  driver_.Advance(absl::Seconds(30));
  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RUNNING);
}

TEST_F(HangTest, AnEvaluationOfOlderWorkersMayTakeItsTime) {
  const std::string job = Run();
  Train(job, 10);
  Heartbeat("a", job, step_, v1::TrainProgress::PHASE_EVALUATING);
  Heartbeat("b", job, step_, v1::TrainProgress::PHASE_EVALUATING);
  driver_.Advance(absl::Minutes(4));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  Train(job, 5);
  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RUNNING);
}

TEST_F(HangTest, ACheckpointIsASignOfLife) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Advance(absl::Seconds(10));
  driver_.Apply(CheckpointCommand{driver_.session("a"), testing::MakeCheckpoint(job, 1, 10)});
  driver_.Advance(absl::Seconds(10));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
}

TEST_F(HangTest, APausedCoordinatorBlamesNobody) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Freeze(absl::Minutes(30));
  driver_.Advance(absl::Seconds(10));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  EXPECT_EQ(driver_.job(job).state(), v1::Job::STATE_RUNNING);
}

TEST_F(HangTest, ARestartedCoordinatorLearnsAnew) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Restart();
  for (const char* node : {"a", "b"}) {
    v1::AllocationStatus status = driver_.Status(job, v1::AllocationStatus::PHASE_RUNNING);
    driver_.Join(node, 1, {status});
    Heartbeat(node, job, step_);
  }
  driver_.Advance(absl::Seconds(20));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  Train(job, 10);
  // One step took 21 s.
  driver_.Advance(absl::Seconds(80));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  driver_.Advance(absl::Seconds(8));
  EXPECT_THAT(RequestsTo("a"), SizeIs(1));
}

// Of a coordinator that gives nodes up late.
class PatientHangTest : public HangTest {
 protected:
  PatientHangTest() : HangTest(Options()) {}
  static ClusterState::Options Options() {
    ClusterState::Options options;
    options.lease.lost_after = absl::Minutes(5);
    return options;
  }
};

TEST_F(PatientHangTest, WhileANodeIsNotHeardNobodyIsBlamed) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Advance(absl::Minutes(4), /*heartbeats=*/false);
  EXPECT_EQ(driver_.state().FindNode("nodes/b")->state(), v1::Node::STATE_UNREACHABLE);
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  // Once they are heard the limit runs again.
  driver_.Advance(absl::Seconds(10));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
  driver_.Advance(absl::Seconds(6));
  EXPECT_THAT(RequestsTo("a"), SizeIs(1));
}

TEST_F(HangTest, FrozenNodesAreNotJudged) {
  const std::string job = Run();
  Train(job, 10);
  driver_.Announce("b", {testing::MakeMaintenance("f", "Freeze", "Started")});
  driver_.Advance(absl::Minutes(2));
  EXPECT_THAT(RequestsTo("a"), IsEmpty());
}

TEST_F(HangTest, OldWorkersCannotBeAsked) {
  driver_.SpeakProtocol(1);
  driver_.Join("b");
  const std::string job = Run();
  Train(job, 10);
  driver_.Advance(absl::Seconds(16));
  EXPECT_THAT(RequestsTo("b"), IsEmpty());
  v1::Diagnosis waits = Answer("a", "S");
  WaitIn(&waits, 12);
  Say("a", waits);
  driver_.Advance(absl::Milliseconds(250));
  EXPECT_THAT(driver_.job(job).state_reason(),
              HasSubstr("rank 1 on nodes/b made no step for 16 s: nothing was heard of it: the "
                        "worker of nodes/b is of an older release"));
}

TEST_F(HangTest, ARankThatHoldsTheOthersUpIsShown) {
  const std::string job = Run();
  const auto train = [&](double slow, int seconds) {
    for (int i = 0; i < seconds; ++i) {
      driver_.Advance(absl::Seconds(1));
      ++step_;
      for (const char* node : {"a", "b"}) {
        HeartbeatCommand command;
        command.session = driver_.session(node);
        v1::RankProgress* progress = command.heartbeat.add_ranks();
        progress->set_job(job);
        progress->set_generation(1);
        progress->set_rank(*node == 'a' ? 0 : 1);
        progress->set_step(step_);
        progress->set_compute_seconds(*node == 'a' ? 0.4 : slow);
        progress->set_wait_seconds(*node == 'a' ? slow - 0.4 : 0.01);
        driver_.Apply(command);
      }
    }
  };
  train(0.4, 20);
  EXPECT_THAT(driver_.EventTypes(job), Not(Contains("Straggler")));
  train(0.8, 60);
  EXPECT_THAT(driver_.EventTypes(job), Contains("Straggler").Times(1));
  const v1::RankPlacement& slow = driver_.job(job).ranks(1);
  EXPECT_NEAR(slow.straggler_score(), 2, 0.01);
  EXPECT_NEAR(slow.compute_seconds(), 0.8, 0.01);
  EXPECT_NEAR(driver_.job(job).ranks(0).wait_seconds(), 0.4, 0.01);
  const auto scores = driver_.state().RankScores();
  ASSERT_THAT(scores, SizeIs(2));
  EXPECT_EQ(scores[1].job, job);
  EXPECT_EQ(scores[1].node, "nodes/b");
  EXPECT_NEAR(scores[1].score, 2, 0.01);
  train(0.4, 90);
  EXPECT_THAT(driver_.EventTypes(job), Contains("StragglerOver").Times(1));
  EXPECT_THAT(driver_.EventTypes(job), Contains("Straggler").Times(1));
  driver_.Cancel(job);
  for (const char* node : {"a", "b"})
    driver_.Report(node, job, v1::AllocationStatus::PHASE_STOPPED);
  EXPECT_THAT(driver_.state().RankScores(), IsEmpty());
}

}  // namespace
}  // namespace muster::coordinator
