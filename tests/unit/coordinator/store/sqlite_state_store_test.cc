// What SQLite's file adds to StateStore's contract, and files of earlier releases.
#include "coordinator/store/sqlite_state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/files.h"
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

class SqliteStateStoreTest : public ::testing::Test {
 protected:
  void Execute(const std::string& sql) {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK) << error;
    sqlite3_close(database);
  }

  testing::TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "store.db";
};

TEST_F(SqliteStateStoreTest, SurvivesReopening) {
  {
    auto store = SqliteStateStore::Open(path_);
    Writes writes;
    writes.jobs["jobs/a"] = Job("jobs/a", 1);
    ASSERT_TRUE((*store)->Commit(writes).ok());
  }
  auto store = SqliteStateStore::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Load()->jobs.size(), 1u);
}

TEST_F(SqliteStateStoreTest, OldEventsDoNotPileUp) {
  auto store = SqliteStateStore::Open(path_);
  for (int64_t sequence = 0; sequence < 2 * kKeptEventsPerSubject;) {
    Writes writes;
    for (int i = 0; i < 20; ++i) {
      writes.events.emplace_back().set_job("jobs/a");
      writes.events.back().set_sequence(++sequence);
    }
    ASSERT_TRUE((*store)->Commit(writes).ok());
  }
  EXPECT_LE((*store)->Load()->events.size(), kKeptEventsPerSubject + 50u);
}

TEST_F(SqliteStateStoreTest, SecondCoordinatorOverOneFileIsRefused) {
  auto first = SqliteStateStore::Open(path_);
  ASSERT_TRUE(first.ok());
  auto second = SqliteStateStore::Open(path_);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use by another coordinator"));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("store.db"));
}

TEST_F(SqliteStateStoreTest, FileThatIsNoDatabaseIsNamed) {
  ASSERT_TRUE(base::WriteFileAtomically(path_, std::string(4096, 'x')).ok());
  auto store = SqliteStateStore::Open(path_);
  ASSERT_FALSE(store.ok());
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(path_.string()));
}

// As release 0.1.0 made it.
constexpr char kVersion1[] = R"sql(
  PRAGMA journal_mode = WAL;
  CREATE TABLE schema_version (version INTEGER NOT NULL);
  CREATE TABLE jobs (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE nodes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE requests (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE events (sequence INTEGER PRIMARY KEY, job TEXT NOT NULL, record BLOB NOT NULL);
  CREATE INDEX events_by_job ON events (job, sequence);
  INSERT INTO schema_version VALUES (1);
  -- JobRecord {job {name: "jobs/a"} submit_sequence: 5}
  INSERT INTO jobs VALUES ('jobs/a', x'0a080a066a6f62732f611005');
  -- NodeRecord {name: "n"}
  INSERT INTO nodes VALUES ('n', x'0a016e');
  -- RequestRecord {request_id: "r", job: "jobs/a"}
  INSERT INTO requests VALUES ('r', x'0a01721a066a6f62732f61');
  -- JobEvent {sequence: 9, job: "jobs/a"}
  INSERT INTO events VALUES (9, 'jobs/a', x'08091a066a6f62732f61');
)sql";

TEST_F(SqliteStateStoreTest, TakesUpAFileOfVersion1) {
  Execute(kVersion1);
  {
    auto store = SqliteStateStore::Open(path_);
    ASSERT_TRUE(store.ok()) << store.status();
    const Snapshot snapshot = *(*store)->Load();
    ASSERT_EQ(snapshot.jobs.size(), 1u);
    EXPECT_EQ(snapshot.jobs[0].job().name(), "jobs/a");
    EXPECT_EQ(snapshot.jobs[0].submit_sequence(), 5);
    EXPECT_EQ(snapshot.nodes.at(0).name(), "n");
    EXPECT_EQ(snapshot.requests.at(0).job(), "jobs/a");
    ASSERT_EQ(snapshot.events.size(), 1u);
    EXPECT_EQ(snapshot.events[0].sequence(), 9);
    EXPECT_TRUE(snapshot.tokens.empty());
    // What the migration made works.
    Writes writes;
    writes.tokens["t"].set_id("t");
    writes.events.emplace_back();
    writes.events[0].set_sequence(10);
    writes.events[0].set_node("nodes/n");
    writes.expired_jobs = {"jobs/a"};
    ASSERT_TRUE((*store)->Commit(writes).ok());
  }
  auto store = SqliteStateStore::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Load()->tokens.size(), 1u);
  ASSERT_EQ((*store)->Load()->events.size(), 1u);
  EXPECT_EQ((*store)->Load()->events[0].node(), "nodes/n");
}

// As release 0.2.0 made it: what its migration did to the tables of version 1.
constexpr char kVersion2[] = R"sql(
  ALTER TABLE events RENAME COLUMN job TO subject;
  DROP INDEX events_by_job;
  CREATE INDEX events_by_subject ON events (subject, sequence);
  CREATE TABLE tokens (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  UPDATE schema_version SET version = 2;
  -- TokenRecord {id: "t"}
  INSERT INTO tokens VALUES ('t', x'0a0174');
)sql";

TEST_F(SqliteStateStoreTest, TakesUpAFileOfVersion2) {
  Execute(kVersion1);
  Execute(kVersion2);
  for (int submitted : {5, 6}) {
    auto store = SqliteStateStore::Open(path_);
    ASSERT_TRUE(store.ok()) << store.status();
    const Snapshot snapshot = *(*store)->Load();
    ASSERT_EQ(snapshot.jobs.size(), 1u);
    EXPECT_EQ(snapshot.jobs[0].submit_sequence(), submitted);
    EXPECT_EQ(snapshot.nodes.at(0).name(), "n");
    EXPECT_EQ(snapshot.requests.at(0).job(), "jobs/a");
    EXPECT_EQ(snapshot.tokens.at(0).id(), "t");
    EXPECT_EQ(snapshot.events.at(0).sequence(), 9);
    // In place of the old one, as ever.
    Writes writes;
    writes.jobs["jobs/a"] = Job("jobs/a", 6);
    writes.requests["r"] = snapshot.requests[0];
    ASSERT_TRUE((*store)->Commit(writes).ok());
  }
}

TEST_F(SqliteStateStoreTest, MigrationThatFailsLeavesTheFileAsItWas) {
  Execute(kVersion1);
  // Stands in the second migration's way.
  Execute("CREATE TABLE tokens (something TEXT)");
  const auto failed = SqliteStateStore::Open(path_);
  ASSERT_FALSE(failed.ok());
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("schema version 2"));
  Execute("DROP TABLE tokens");
  auto store = SqliteStateStore::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Load()->jobs.size(), 1u);
}

TEST_F(SqliteStateStoreTest, FileOfANewerReleaseIsRefused) {
  { ASSERT_TRUE(SqliteStateStore::Open(path_).ok()); }
  Execute("UPDATE schema_version SET version = 1000");
  const auto store = SqliteStateStore::Open(path_);
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("install a newer release"));
}

}  // namespace
}  // namespace muster::coordinator
