// Against coordinators of other releases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/fake_coordinator.h"
#include "tests/unit/worker/daemon/fixtures.h"
#include "worker/daemon/coordinator_session.h"
#include "worker/daemon/worker.h"

namespace muster::worker {
namespace {

using ::testing::HasSubstr;
using Status = v1::AllocationStatus;

class ProtocolTest : public ::testing::Test {
 protected:
  void StartWorker() {
    WriteDataSet(folder_.path() / "data");
    WorkerOptions options;
    options.coordinators = {coordinator_.address()};
    options.name = "w1";
    options.slots = 2;
    options.state_dir = folder_.path() / "state";
    options.data_roots = {folder_.path() / "data"};
    options.trainer = "/bin/false";
    options.shim_command = {"/bin/false"};
    options.metrics = {"127.0.0.1", 0};
    auto worker = Worker::Start(
        options, [](const std::string& reason) { ADD_FAILURE() << "refused: " << reason; });
    ASSERT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
  }
  bool Serves() {
    return coordinator_.WaitFor([](const v1::WorkerMessage& m) { return m.has_heartbeat(); })
        .has_value();
  }

  testing::TemporaryFolder folder_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(ProtocolTest, SaysItsVersion) {
  StartWorker();
  const std::optional<v1::Hello> hello = coordinator_.WaitForHello();
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->protocol_version(), kProtocolVersion);
}

TEST_F(ProtocolTest, CoordinatorOfTheReleaseBefore) {
  coordinator_.SpeakVersion(kOldestProtocolVersion);
  StartWorker();
  ASSERT_TRUE(Serves());
  // Work without anything that version 2 has.
  coordinator_.SendDesired(1, {MakeAllocation(1, v1::Allocation::GOAL_PREPARE)});
  ASSERT_TRUE(coordinator_.WaitForPhase(Status::PHASE_PREPARED).has_value());
  coordinator_.SendDesired(2, {});
  EXPECT_TRUE(coordinator_.WaitForPhase(Status::PHASE_STOPPED).has_value());
}

TEST_F(ProtocolTest, CoordinatorThatIsTooNewIsTriedAgain) {
  ::testing::internal::CaptureStderr();
  coordinator_.SpeakVersion(99);
  StartWorker();
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(coordinator_.WaitForHello().has_value());
  // It is replaced by one that fits.
  coordinator_.SpeakVersion(kProtocolVersion);
  EXPECT_TRUE(Serves());
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("speaks protocol version 99, this worker versions 1 to 2"));
}

// A newer coordinator's messages, fields and enum values.
TEST_F(ProtocolTest, UnknownContentChangesNothing) {
  StartWorker();
  ASSERT_TRUE(Serves());
  v1::CoordinatorMessage unknown;
  unknown.GetReflection()->MutableUnknownFields(&unknown)->AddLengthDelimited(999, "news");
  coordinator_.Send(unknown);
  v1::Allocation allocation = MakeAllocation(1, v1::Allocation::GOAL_PREPARE);
  allocation.GetReflection()->MutableUnknownFields(&allocation)->AddVarint(999, 7);
  coordinator_.SendDesired(1, {allocation});
  EXPECT_TRUE(coordinator_.WaitForPhase(Status::PHASE_PREPARED).has_value());
  // It cannot know what it would have to do: as little as possible.
  allocation.set_goal(static_cast<v1::Allocation::Goal>(99));
  coordinator_.SendDesired(2, {allocation});
  const std::optional<v1::Ack> ack = coordinator_.WaitForAck(2);
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(Serves());
}

}  // namespace
}  // namespace muster::worker
