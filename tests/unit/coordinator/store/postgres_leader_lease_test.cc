// Who leads over one PostgreSQL, and what happens to those who do not any more.
#include "coordinator/store/postgres_leader_lease.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"

#include "coordinator/store/postgres_state_store.h"
#include "tests/support/fake_clock.h"
#include "tests/support/postgres.h"
#include "tests/support/shared_data.h"

namespace muster::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kDuration = absl::Seconds(3);

class PostgresLeaderLeaseTest : public ::testing::Test {
 protected:
  static void TearDownTestSuite() { postgres_.reset(); }

  void SetUp() override {
    if (!testing::Postgres::Installed()) GTEST_SKIP() << "PostgreSQL is not installed";
    if (postgres_ == nullptr) postgres_ = std::make_unique<testing::Postgres>();
    url_ = postgres_->NewDatabase();
  }
  std::unique_ptr<PostgresLeaderLease> Lease(const std::string& holder = "a") {
    PostgresLeaderLease::Options options;
    options.url = url_;
    options.holder = holder;
    options.duration = kDuration;
    auto lease = PostgresLeaderLease::Create(options, clock_);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return *std::move(lease);
  }
  std::unique_ptr<PostgresStateStore> Store(const PostgresLeaderLease* lease) {
    auto store = PostgresStateStore::Create(url_, lease);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  // Ours, or else it fails the test.
  static void Acquire(PostgresLeaderLease* lease) {
    const auto leader = lease->TryAcquire();
    ASSERT_TRUE(leader.ok()) << leader.status();
    ASSERT_FALSE(leader->has_value()) << (*leader)->address;
  }
  // As if its holder had not renewed it.
  void Expire() {
    postgres_->Query(url_, "UPDATE muster.leader SET expires_at = clock_timestamp()");
  }
  static Writes OneJob(const std::string& name) {
    Writes writes;
    writes.jobs[name].mutable_job()->set_name(name);
    return writes;
  }

  static std::unique_ptr<testing::Postgres> postgres_;
  testing::FakeClock clock_;
  std::string url_;
};

std::unique_ptr<testing::Postgres> PostgresLeaderLeaseTest::postgres_;

TEST_F(PostgresLeaderLeaseTest, OneLeadsAndTheOtherLearnsWho) {
  auto first = Lease("first");
  auto second = Lease("second");
  Acquire(first.get());
  first->SetAddress("10.0.0.4:7070");
  ASSERT_TRUE(first->Renew().ok());
  const auto leader = second->TryAcquire();
  ASSERT_TRUE(leader.ok()) << leader.status();
  ASSERT_TRUE(leader->has_value());
  EXPECT_EQ((*leader)->address, "10.0.0.4:7070");
  EXPECT_EQ((*leader)->term, first->term());
  EXPECT_EQ(postgres_->Query(url_, "SELECT holder FROM muster.leader"), "first");
}

TEST_F(PostgresLeaderLeaseTest, OfManyAtOnceOneLeads) {
  std::vector<std::thread> threads;
  std::atomic<int> leaders = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      auto lease = Lease();
      const auto leader = lease->TryAcquire();
      EXPECT_TRUE(leader.ok()) << leader.status();
      if (leader.ok() && !leader->has_value()) ++leaders;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(leaders, 1);
}

TEST_F(PostgresLeaderLeaseTest, ExpiredLeaderCanNeitherRenewNorWriteOnceAnotherLeads) {
  auto old = Lease();
  Acquire(old.get());
  auto old_store = Store(old.get());
  ASSERT_TRUE(old_store->Commit(OneJob("jobs/before")).ok());
  Expire();
  auto next = Lease();
  Acquire(next.get());
  EXPECT_GT(next->term(), old->term());

  // Its own clock still says that it leads: the database knows better.
  ASSERT_TRUE(old->Check().ok());
  EXPECT_EQ(old_store->Commit(OneJob("jobs/after")).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(old->Renew().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(old->Check().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(old_store->Commit(Writes()).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(old->Release().ok());

  auto store = Store(next.get());
  ASSERT_TRUE(store->Commit(OneJob("jobs/next")).ok());
  const Snapshot snapshot = *store->Load();
  ASSERT_EQ(snapshot.jobs.size(), 2u);
  EXPECT_EQ(snapshot.jobs[0].job().name(), "jobs/before");
  EXPECT_EQ(snapshot.jobs[1].job().name(), "jobs/next");
}

TEST_F(PostgresLeaderLeaseTest, LeaderThatSleptActsAgainOnlyAfterARenewal) {
  auto lease = Lease();
  Acquire(lease.get());
  auto store = Store(lease.get());
  clock_.Advance(kDuration);
  EXPECT_EQ(lease->Check().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store->Commit(OneJob("jobs/a")).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store->Commit(Writes()).code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(lease->Renew().ok());
  EXPECT_TRUE(store->Commit(OneJob("jobs/a")).ok());
}

TEST_F(PostgresLeaderLeaseTest, TakeoverWaitsForACommitUnderWayAndRenewalsDoNot) {
  auto old = Lease();
  Acquire(old.get());
  // A commit that has checked its term.
  auto connection = PostgresConnection::Create({.url = url_, .application = "test"});
  ASSERT_TRUE((*connection)->RunScript("BEGIN").ok());
  ASSERT_TRUE((*connection)->Run("SELECT 1 FROM muster.leader WHERE term = 1 FOR KEY SHARE").ok());
  EXPECT_TRUE(old->Renew().ok());
  Expire();
  auto next = Lease();
  const auto waiting = next->TryAcquire();
  EXPECT_EQ(waiting.status().code(), absl::StatusCode::kUnavailable) << waiting.status();
  ASSERT_TRUE((*connection)->RunScript("COMMIT").ok());
  Acquire(next.get());
}

TEST_F(PostgresLeaderLeaseTest, CommitThatSleepsInTheMiddleIsRolledBack) {
  auto connection = PostgresConnection::Create(
      {.url = url_, .application = "test", .idle_in_transaction_timeout = absl::Milliseconds(50)});
  ASSERT_TRUE((*connection)->RunScript("CREATE TABLE t (x bigint)").ok());
  const absl::Status status = (*connection)->Transaction("BEGIN", [&]() -> absl::Status {
    EXPECT_TRUE((*connection)->RunScript("INSERT INTO t VALUES (1)").ok());
    // Until the server has given up on it.
    while (postgres_->Query(url_,
                            "SELECT count(*) FROM pg_stat_activity WHERE "
                            "application_name = 'test'") != "0") {
    }
    return (*connection)->RunScript("INSERT INTO t VALUES (2)");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(postgres_->Query(url_, "SELECT count(*) FROM t"), "0");
  // The next one finds a new connection.
  EXPECT_TRUE((*connection)->RunScript("INSERT INTO t VALUES (3)").ok());
}

TEST_F(PostgresLeaderLeaseTest, ReleasedLeaseIsFreeAtOnce) {
  auto first = Lease();
  auto second = Lease();
  Acquire(first.get());
  ASSERT_TRUE(first->Release().ok());
  EXPECT_EQ(first->Check().code(), absl::StatusCode::kAborted);
  Acquire(second.get());
  // And can be had again.
  ASSERT_TRUE(second->Release().ok());
  Acquire(first.get());
  EXPECT_TRUE(first->Check().ok());
}

TEST_F(PostgresLeaderLeaseTest, DatabaseOfANewerReleaseIsRefused) {
  { Acquire(Lease().get()); }
  Expire();
  postgres_->Query(url_, "UPDATE muster.schema_version SET version = 1000");
  const auto refused = Lease()->TryAcquire();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("install a newer release"));
}

TEST_F(PostgresLeaderLeaseTest, StoreWorksAgainAfterTheServerWasKilled) {
  auto lease = Lease();
  Acquire(lease.get());
  auto store = Store(lease.get());
  ASSERT_TRUE(store->Commit(OneJob("jobs/a")).ok());
  postgres_->Kill();
  EXPECT_EQ(store->Commit(OneJob("jobs/b")).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(lease->Renew().code(), absl::StatusCode::kUnavailable);
  postgres_->Start();
  EXPECT_TRUE(lease->Renew().ok());
  const absl::Status status = store->Commit(OneJob("jobs/b"));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(store->Load()->jobs.size(), 2u);
}

TEST_F(PostgresLeaderLeaseTest, CommitsReachTheDiskWhateverTheDatabasesDefault) {
  postgres_->Query(url_, "ALTER ROLE muster SET synchronous_commit = off");
  auto connection = PostgresConnection::Create({.url = url_});
  EXPECT_EQ((*connection)->Run("SELECT current_setting('synchronous_commit')")->Bytes(0, 0), "on");
  postgres_->Query(url_, "ALTER ROLE muster RESET synchronous_commit");
}

TEST_F(PostgresLeaderLeaseTest, ErrorsNameTheStoreAndNeverThePassword) {
  const auto error = [&](const std::string& url) {
    PostgresLeaderLease::Options options;
    options.url = url;
    auto lease = PostgresLeaderLease::Create(options, clock_);
    const absl::Status status = lease.ok() ? (*lease)->TryAcquire().status() : lease.status();
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
    return status;
  };
  EXPECT_EQ(error("postgresql://u:sec ret%zzsecret@h/d").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error("postgresql://u:secret@h:port/d").code(), absl::StatusCode::kUnavailable);
  const testing::TemporaryFolder nowhere;
  const absl::Status away =
      error(absl::StrCat("postgresql://u:secret@/d?host=", nowhere.path().string()));
  EXPECT_EQ(away.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(away.message()), HasSubstr(nowhere.path().string()));
  const absl::Status missing = error(absl::StrCat("postgresql://muster:secret@/no-such?host=",
                                                  postgres_->socket().parent_path().string()));
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no-such"));
}

}  // namespace
}  // namespace muster::coordinator
