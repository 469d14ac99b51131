#include "worker/daemon/outbox.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/fake_clock.h"

namespace muster::worker {
namespace {

v1::Checkpoint At(int64_t step) {
  v1::Checkpoint checkpoint;
  checkpoint.set_step(step);
  return checkpoint;
}

class OutboxTest : public ::testing::Test {
 protected:
  std::optional<v1::WorkerMessage> Next() { return outbox_.Next(absl::ZeroDuration()); }

  testing::FakeClock clock_;
  Outbox outbox_{clock_};
};

TEST_F(OutboxTest, CheckpointsWaitForASessionAndStatusesDoNot) {
  outbox_.AddCheckpoint(At(1));
  outbox_.AddStatus({});
  EXPECT_FALSE(Next().has_value());
  outbox_.BeginSession();
  EXPECT_EQ(Next()->checkpoint().step(), 1);
  EXPECT_FALSE(Next().has_value());
  outbox_.AddStatus({});
  EXPECT_TRUE(Next()->has_allocation());
}

TEST_F(OutboxTest, WhatMayBeLostIsSentAgainInOrder) {
  outbox_.BeginSession();
  outbox_.AddCheckpoint(At(1));
  ASSERT_TRUE(Next().has_value());
  clock_.Advance(absl::Minutes(2));
  outbox_.AddCheckpoint(At(2));
  ASSERT_TRUE(Next().has_value());
  outbox_.EndSession();
  outbox_.AddCheckpoint(At(3));
  outbox_.BeginSession();
  EXPECT_EQ(Next()->checkpoint().step(), 2);
  EXPECT_EQ(Next()->checkpoint().step(), 3);
  EXPECT_FALSE(Next().has_value());
}

TEST_F(OutboxTest, TheNewestMaintenanceIsSaidInEachSession) {
  v1::Maintenance maintenance;
  maintenance.add_events()->set_id("e1");
  outbox_.SetMaintenance(maintenance);
  outbox_.AddCheckpoint(At(1));
  outbox_.BeginSession();
  EXPECT_EQ(Next()->maintenance().events(0).id(), "e1");
  EXPECT_EQ(Next()->checkpoint().step(), 1);
  outbox_.SetMaintenance({});
  EXPECT_TRUE(Next()->maintenance().events().empty());
  outbox_.EndSession();
  outbox_.BeginSession();
  EXPECT_TRUE(Next()->has_maintenance());
}

TEST_F(OutboxTest, LogChunksComeLastAndWaitForRoom) {
  const uint64_t session = outbox_.BeginSession();
  EXPECT_TRUE(outbox_.AddLogChunk(session, {}));
  outbox_.AddAck({});
  EXPECT_TRUE(Next()->has_ack());
  EXPECT_TRUE(Next()->has_log_chunk());

  std::thread writer([&] {
    while (outbox_.AddLogChunk(session, {})) {
    }
  });
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(outbox_.Next(absl::Seconds(20))->has_log_chunk());
  }
  outbox_.EndSession();
  writer.join();
  outbox_.BeginSession();
  EXPECT_FALSE(outbox_.AddLogChunk(session, {}));
  EXPECT_FALSE(Next().has_value());
}

}  // namespace
}  // namespace muster::worker
