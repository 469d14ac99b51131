// What every StateStore promises.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "common/base/clock.h"
#include "coordinator/store/memory_state_store.h"
#include "coordinator/store/postgres_leader_lease.h"
#include "coordinator/store/postgres_state_store.h"
#include "coordinator/store/sqlite_state_store.h"
#include "tests/support/postgres.h"
#include "tests/support/shared_data.h"

namespace muster::coordinator {
namespace {

internal::JobRecord Job(const std::string& name, int64_t sequence) {
  internal::JobRecord record;
  record.mutable_job()->set_name(name);
  record.set_submit_sequence(sequence);
  return record;
}

v1::JobEvent Event(const std::string& job, int64_t sequence, const std::string& node = "") {
  v1::JobEvent event;
  event.set_job(job);
  event.set_node(node);
  event.set_sequence(sequence);
  return event;
}

enum class Kind { kMemory, kSqlite, kPostgres };

class StateStoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  static void TearDownTestSuite() { postgres_.reset(); }

  void SetUp() override {
    if (GetParam() == Kind::kMemory) {
      store_ = std::make_unique<MemoryStateStore>();
    } else if (GetParam() == Kind::kSqlite) {
      auto opened = SqliteStateStore::Open(folder_.path() / "sub" / "store.db");
      ASSERT_TRUE(opened.ok()) << opened.status();
      store_ = *std::move(opened);
    } else {
      if (!testing::Postgres::Installed()) GTEST_SKIP() << "PostgreSQL is not installed";
      if (postgres_ == nullptr) postgres_ = std::make_unique<testing::Postgres>();
      PostgresLeaderLease::Options options;
      options.url = postgres_->NewDatabase();
      // These tests are not about its end.
      options.duration = absl::Minutes(5);
      auto lease = PostgresLeaderLease::Create(options, clock_);
      ASSERT_TRUE(lease.ok()) << lease.status();
      lease_ = *std::move(lease);
      const auto leader = lease_->TryAcquire();
      ASSERT_TRUE(leader.ok()) << leader.status();
      ASSERT_FALSE(leader->has_value());
      auto store = PostgresStateStore::Create(options.url, lease_.get());
      ASSERT_TRUE(store.ok()) << store.status();
      store_ = *std::move(store);
    }
  }

  // One server for all tests of the program.
  static std::unique_ptr<testing::Postgres> postgres_;
  testing::TemporaryFolder folder_;
  base::SystemClock clock_;
  std::unique_ptr<PostgresLeaderLease> lease_;
  std::unique_ptr<StateStore> store_;
};

std::unique_ptr<testing::Postgres> StateStoreTest::postgres_;

TEST_P(StateStoreTest, StartsEmpty) {
  const absl::StatusOr<Snapshot> snapshot = store_->Load();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_TRUE(snapshot->jobs.empty());
  EXPECT_TRUE(snapshot->nodes.empty());
  EXPECT_TRUE(snapshot->requests.empty());
  EXPECT_TRUE(snapshot->tokens.empty());
  EXPECT_TRUE(snapshot->events.empty());
  EXPECT_TRUE(store_->Commit(Writes()).ok());
}

TEST_P(StateStoreTest, GivesBackWhatWasCommittedNewestVersionOnly) {
  Writes first;
  first.jobs["jobs/a"] = Job("jobs/a", 1);
  first.jobs["jobs/b"] = Job("jobs/b", 2);
  first.nodes["n"].set_name("n");
  first.requests["r"].set_job("jobs/a");
  first.tokens["t"].set_id("t");
  first.events = {Event("jobs/a", 2), Event("jobs/a", 1)};
  absl::Status status = store_->Commit(first);
  ASSERT_TRUE(status.ok()) << status;
  Writes second;
  second.jobs["jobs/a"] = Job("jobs/a", 7);
  second.events = {Event("jobs/a", 3)};
  status = store_->Commit(second);
  ASSERT_TRUE(status.ok()) << status;

  const Snapshot snapshot = *store_->Load();
  ASSERT_EQ(snapshot.jobs.size(), 2u);
  EXPECT_EQ(snapshot.jobs[0].submit_sequence(), 7);
  EXPECT_EQ(snapshot.jobs[1].job().name(), "jobs/b");
  ASSERT_EQ(snapshot.nodes.size(), 1u);
  EXPECT_EQ(snapshot.requests.at(0).job(), "jobs/a");
  EXPECT_EQ(snapshot.tokens.at(0).id(), "t");
  ASSERT_EQ(snapshot.events.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(snapshot.events[i].sequence(), i + 1);
}

TEST_P(StateStoreTest, CommittingTheSameAgainChangesNothing) {
  Writes writes;
  writes.jobs["jobs/a"] = Job("jobs/a", 1);
  writes.events = {Event("jobs/a", 1), Event("", 2, "nodes/n")};
  writes.expired_requests = {"r"};
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(store_->Commit(writes).ok());
  EXPECT_EQ(store_->Load()->jobs.size(), 1u);
  EXPECT_EQ(store_->Load()->events.size(), 2u);
}

TEST_P(StateStoreTest, RemovesExpiredRequests) {
  Writes writes;
  writes.requests["old"].set_request_id("old");
  writes.requests["new"].set_request_id("new");
  ASSERT_TRUE(store_->Commit(writes).ok());
  Writes later;
  later.expired_requests = {"old", "never there"};
  ASSERT_TRUE(store_->Commit(later).ok());
  ASSERT_EQ(store_->Load()->requests.size(), 1u);
  EXPECT_EQ(store_->Load()->requests[0].request_id(), "new");
}

TEST_P(StateStoreTest, RemovesExpiredTokens) {
  Writes writes;
  writes.tokens["old"].set_id("old");
  writes.tokens["new"].set_id("new");
  ASSERT_TRUE(store_->Commit(writes).ok());
  Writes later;
  later.expired_tokens = {"old", "never there"};
  EXPECT_FALSE(later.empty());
  ASSERT_TRUE(store_->Commit(later).ok());
  ASSERT_EQ(store_->Load()->tokens.size(), 1u);
  EXPECT_EQ(store_->Load()->tokens[0].id(), "new");
}

TEST_P(StateStoreTest, RemovesExpiredJobsWithTheirEvents) {
  Writes writes;
  writes.jobs["jobs/old"] = Job("jobs/old", 1);
  writes.jobs["jobs/new"] = Job("jobs/new", 2);
  writes.events = {Event("jobs/old", 1), Event("jobs/new", 2), Event("jobs/old", 3),
                   Event("", 4, "nodes/n")};
  ASSERT_TRUE(store_->Commit(writes).ok());
  Writes later;
  later.expired_jobs = {"jobs/old", "jobs/never-there"};
  const absl::Status status = store_->Commit(later);
  ASSERT_TRUE(status.ok()) << status;
  const Snapshot snapshot = *store_->Load();
  ASSERT_EQ(snapshot.jobs.size(), 1u);
  EXPECT_EQ(snapshot.jobs[0].job().name(), "jobs/new");
  ASSERT_EQ(snapshot.events.size(), 2u);
  EXPECT_EQ(snapshot.events[0].sequence(), 2);
  EXPECT_EQ(snapshot.events[1].sequence(), 4);
}

TEST_P(StateStoreTest, NameOfAnExpiredJobIsFreeInTheSameCommit) {
  Writes writes;
  writes.jobs["jobs/a"] = Job("jobs/a", 1);
  writes.events = {Event("jobs/a", 1)};
  ASSERT_TRUE(store_->Commit(writes).ok());
  Writes later;
  later.expired_jobs = {"jobs/a"};
  later.jobs["jobs/a"] = Job("jobs/a", 2);
  later.events = {Event("jobs/a", 2)};
  ASSERT_TRUE(store_->Commit(later).ok());
  const Snapshot snapshot = *store_->Load();
  ASSERT_EQ(snapshot.jobs.size(), 1u);
  EXPECT_EQ(snapshot.jobs[0].submit_sequence(), 2);
  ASSERT_EQ(snapshot.events.size(), 1u);
  EXPECT_EQ(snapshot.events[0].sequence(), 2);
}

TEST_P(StateStoreTest, KeepsEmptyRecords) {
  Writes writes;
  writes.nodes["n"] = internal::NodeRecord();
  ASSERT_TRUE(store_->Commit(writes).ok());
  EXPECT_EQ(store_->Load()->nodes.size(), 1u);
}

TEST_P(StateStoreTest, KeepsEveryByteOfARecord) {
  Writes writes;
  internal::RequestRecord& record = writes.requests["r"];
  for (int byte = 0; byte < 256; ++byte) record.mutable_body()->push_back(static_cast<char>(byte));
  writes.jobs["jobs/\"{}\\'"] = Job("jobs/\"{}\\'", 1);
  ASSERT_TRUE(store_->Commit(writes).ok());
  EXPECT_EQ(store_->Load()->requests.at(0).body(), record.body());
  EXPECT_EQ(store_->Load()->jobs.at(0).job().name(), "jobs/\"{}\\'");
}

TEST_P(StateStoreTest, KeepsTheNewest500EventsOfAJobAndOfANode) {
  Writes writes;
  for (int i = 1; i <= 600; ++i) writes.events.push_back(Event(i == 1 ? "jobs/b" : "jobs/a", i));
  for (int i = 601; i <= 1200; ++i) writes.events.push_back(Event("", i, "nodes/n"));
  const absl::Status status = store_->Commit(writes);
  ASSERT_TRUE(status.ok()) << status;
  const Snapshot snapshot = *store_->Load();
  // In memory nothing need be trimmed.
  if (GetParam() == Kind::kMemory) {
    EXPECT_EQ(snapshot.events.size(), 1200u);
    return;
  }
  ASSERT_EQ(snapshot.events.size(), 1001u);
  EXPECT_EQ(snapshot.events[0].job(), "jobs/b");
  EXPECT_EQ(snapshot.events[1].sequence(), 101);
  EXPECT_EQ(snapshot.events[501].sequence(), 701);
}

INSTANTIATE_TEST_SUITE_P(All, StateStoreTest,
                         ::testing::Values(Kind::kMemory, Kind::kSqlite, Kind::kPostgres),
                         [](const auto& kind) {
                           return kind.param == Kind::kMemory   ? "Memory"
                                  : kind.param == Kind::kSqlite ? "Sqlite"
                                                                : "Postgres";
                         });

}  // namespace
}  // namespace muster::coordinator
