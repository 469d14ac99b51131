// What every StateStore promises; and what SQLite's file adds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>

#include "common/base/files.h"
#include "coordinator/store/memory_state_store.h"
#include "coordinator/store/sqlite_state_store.h"
#include "tests/support/shared_data.h"

namespace muster::coordinator {
namespace {

using ::testing::HasSubstr;

internal::JobRecord Job(const std::string& name, int64_t sequence) {
  internal::JobRecord record;
  record.mutable_job()->set_name(name);
  record.set_submit_sequence(sequence);
  return record;
}

v1::JobEvent Event(const std::string& job, int64_t sequence) {
  v1::JobEvent event;
  event.set_job(job);
  event.set_sequence(sequence);
  return event;
}

class StateStoreTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      auto opened = SqliteStateStore::Open(folder_.path() / "sub" / "store.db");
      ASSERT_TRUE(opened.ok()) << opened.status();
      store_ = *std::move(opened);
    } else {
      store_ = std::make_unique<MemoryStateStore>();
    }
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<StateStore> store_;
};

TEST_P(StateStoreTest, StartsEmpty) {
  const absl::StatusOr<Snapshot> snapshot = store_->Load();
  ASSERT_TRUE(snapshot.ok());
  EXPECT_TRUE(snapshot->jobs.empty());
  EXPECT_TRUE(snapshot->nodes.empty());
  EXPECT_TRUE(snapshot->requests.empty());
  EXPECT_TRUE(snapshot->events.empty());
  EXPECT_TRUE(store_->Commit(Writes()).ok());
}

TEST_P(StateStoreTest, GivesBackWhatWasCommittedNewestVersionOnly) {
  Writes first;
  first.jobs["jobs/a"] = Job("jobs/a", 1);
  first.jobs["jobs/b"] = Job("jobs/b", 2);
  first.nodes["n"].set_name("n");
  first.requests["r"].set_job("jobs/a");
  first.events = {Event("jobs/a", 2), Event("jobs/a", 1)};
  ASSERT_TRUE(store_->Commit(first).ok());
  Writes second;
  second.jobs["jobs/a"] = Job("jobs/a", 7);
  second.events = {Event("jobs/a", 3)};
  ASSERT_TRUE(store_->Commit(second).ok());

  const Snapshot snapshot = *store_->Load();
  ASSERT_EQ(snapshot.jobs.size(), 2u);
  EXPECT_EQ(snapshot.jobs[0].submit_sequence(), 7);
  EXPECT_EQ(snapshot.jobs[1].job().name(), "jobs/b");
  ASSERT_EQ(snapshot.nodes.size(), 1u);
  EXPECT_EQ(snapshot.requests.at(0).job(), "jobs/a");
  ASSERT_EQ(snapshot.events.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(snapshot.events[i].sequence(), i + 1);
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

TEST_P(StateStoreTest, KeepsEmptyRecords) {
  Writes writes;
  writes.nodes["n"] = internal::NodeRecord();
  ASSERT_TRUE(store_->Commit(writes).ok());
  EXPECT_EQ(store_->Load()->nodes.size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(All, StateStoreTest, ::testing::Bool(),
                         [](const auto& kind) { return kind.param ? "Sqlite" : "Memory"; });

TEST(SqliteStateStoreTest, SurvivesReopening) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "store.db";
  {
    auto store = SqliteStateStore::Open(path);
    Writes writes;
    writes.jobs["jobs/a"] = Job("jobs/a", 1);
    ASSERT_TRUE((*store)->Commit(writes).ok());
  }
  auto store = SqliteStateStore::Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Load()->jobs.size(), 1u);
}

TEST(SqliteStateStoreTest, SurvivesAKilledProcess) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "store.db";
  const pid_t child = fork();
  if (child == 0) {
    auto store = SqliteStateStore::Open(path);
    Writes writes;
    writes.jobs["jobs/a"] = Job("jobs/a", 1);
    if (!store.ok() || !(*store)->Commit(writes).ok()) _exit(1);
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  auto store = SqliteStateStore::Open(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Load()->jobs.size(), 1u);
}

TEST(SqliteStateStoreTest, SecondCoordinatorOverOneFileIsRefused) {
  testing::TemporaryFolder folder;
  auto first = SqliteStateStore::Open(folder.path() / "store.db");
  ASSERT_TRUE(first.ok());
  auto second = SqliteStateStore::Open(folder.path() / "store.db");
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use by another coordinator"));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("store.db"));
}

TEST(SqliteStateStoreTest, FileThatIsNoDatabaseIsNamed) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "store.db";
  ASSERT_TRUE(base::WriteFileAtomically(path, std::string(4096, 'x')).ok());
  auto store = SqliteStateStore::Open(path);
  ASSERT_FALSE(store.ok());
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(path.string()));
}

TEST(SqliteStateStoreTest, KeepsTheNewest500EventsOfAJob) {
  testing::TemporaryFolder folder;
  auto store = SqliteStateStore::Open(folder.path() / "store.db");
  Writes writes;
  for (int i = 1; i <= 600; ++i) writes.events.push_back(Event(i == 1 ? "jobs/b" : "jobs/a", i));
  ASSERT_TRUE((*store)->Commit(writes).ok());
  const Snapshot snapshot = *(*store)->Load();
  ASSERT_EQ(snapshot.events.size(), 501u);
  EXPECT_EQ(snapshot.events[0].job(), "jobs/b");
  EXPECT_EQ(snapshot.events[1].sequence(), 101);
}

}  // namespace
}  // namespace muster::coordinator
