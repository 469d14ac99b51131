// kill -9 at every write of every commit, in both stores: what was acknowledged is there, and of
// what was not, all or nothing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/clock.h"
#include "coordinator/store/postgres_leader_lease.h"
#include "coordinator/store/postgres_state_store.h"
#include "coordinator/store/sqlite_state_store.h"
#include "tests/support/postgres.h"
#include "tests/support/shared_data.h"

namespace muster::coordinator {
namespace {

constexpr int kCommits = 3;

// The i-th commit puts a job over several pages, a node, an event and a request, and removes the
// job of the one before it.
Writes CommitOf(const std::string& prefix, int i) {
  Writes writes;
  const std::string name = absl::StrCat("jobs/", prefix, "-", i);
  v1::Job* job = writes.jobs[name].mutable_job();
  job->set_name(name);
  job->set_display_name(std::string(10'000, 'x'));
  writes.nodes[absl::StrCat(prefix, "-", i)].set_name(absl::StrCat(prefix, "-", i));
  internal::RequestRecord& request = writes.requests[absl::StrCat(prefix, "-", i)];
  request.set_request_id(absl::StrCat(prefix, "-", i));
  v1::JobEvent event;
  event.set_job(name);
  event.set_sequence(static_cast<int64_t>(std::hash<std::string>()(name) >> 1));
  event.set_message(std::string(3'000, 'y'));
  writes.events = {event};
  if (i > 1) writes.expired_jobs = {absl::StrCat("jobs/", prefix, "-", i - 1)};
  return writes;
}

// Runs all commits and writes a byte to `acknowledged` after each. Exit code 0, or 1 for an error.
int RunCommits(StateStore* store, const std::string& prefix, int acknowledged) {
  for (int i = 1; i <= kCommits; ++i) {
    const absl::Status status = store->Commit(CommitOf(prefix, i));
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      return 1;
    }
    if (write(acknowledged, "+", 1) != 1) return 1;
  }
  return 0;
}

// That the store holds exactly the first `acknowledged` commits of `prefix`, or one more.
void ExpectWhole(const Snapshot& snapshot, const std::string& prefix, int acknowledged) {
  const auto count = [&](const auto& records, const auto& name_of) {
    std::set<std::string> names;
    for (const auto& record : records) {
      if (absl::StrContains(name_of(record), absl::StrCat(prefix, "-"))) {
        names.insert(name_of(record));
      }
    }
    return names;
  };
  const std::set<std::string> nodes =
      count(snapshot.nodes, [](const auto& node) { return node.name(); });
  const std::set<std::string> requests =
      count(snapshot.requests, [](const auto& request) { return request.request_id(); });
  const std::set<std::string> jobs =
      count(snapshot.jobs, [](const auto& job) { return job.job().name(); });
  const std::set<std::string> events =
      count(snapshot.events, [](const auto& event) { return event.job(); });
  const int commits = static_cast<int>(nodes.size());
  EXPECT_TRUE(commits == acknowledged || commits == acknowledged + 1) << commits;
  EXPECT_EQ(requests, nodes);
  // Only of the newest.
  std::set<std::string> newest;
  if (commits > 0) newest.insert(absl::StrCat("jobs/", prefix, "-", commits));
  EXPECT_EQ(jobs, newest);
  EXPECT_EQ(events, newest);
  for (const internal::JobRecord& job : snapshot.jobs) {
    EXPECT_EQ(job.job().display_name(), std::string(10'000, 'x'));
  }
}

struct Ended {
  int acknowledged = 0;
  bool killed = false;
};

// Of a child whose acknowledgements come through `pipe_end`.
Ended WaitFor(pid_t child, int pipe_end) {
  Ended ended;
  char byte;
  while (read(pipe_end, &byte, 1) == 1) ++ended.acknowledged;
  close(pipe_end);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  ended.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  EXPECT_TRUE(ended.killed || status == 0) << "the child failed";
  return ended;
}

// A file system under SQLite that kills the process at its n-th write. Each write counts twice: the
// first time the process ends before it, the second time half way through it.
class DeadlyFileSystem {
 public:
  // In a process of its own: it is SQLite's default from here on, and stays.
  static void Install(int deadly_point) {
    deadly_point_ = deadly_point;
    original_ = sqlite3_vfs_find(nullptr);
    vfs_ = *original_;
    vfs_.zName = "deadly";
    vfs_.xOpen = &Open;
    vfs_.xDelete = &Delete;
    sqlite3_vfs_register(&vfs_, /*makeDflt=*/1);
  }

 private:
  static bool Deadly() { return ++points_ == deadly_point_; }
  static void Die() { raise(SIGKILL); }

  static int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
    const int result = original_->xOpen(original_, name, file, flags, out_flags);
    if (file->pMethods == nullptr) return result;
    methods_[file] = file->pMethods;
    // One for each open file, kept to the end of the process.
    auto* deadly = new sqlite3_io_methods(*file->pMethods);
    deadly->xWrite = &Write;
    deadly->xTruncate = &Truncate;
    deadly->xSync = &Sync;
    file->pMethods = deadly;
    return result;
  }
  static int Delete(sqlite3_vfs*, const char* name, int sync_folder) {
    if (Deadly()) Die();
    return original_->xDelete(original_, name, sync_folder);
  }
  static int Write(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
    if (Deadly()) Die();
    if (Deadly()) {
      methods_[file]->xWrite(file, data, size / 2, offset);
      Die();
    }
    return methods_[file]->xWrite(file, data, size, offset);
  }
  static int Truncate(sqlite3_file* file, sqlite3_int64 size) {
    if (Deadly()) Die();
    return methods_[file]->xTruncate(file, size);
  }
  static int Sync(sqlite3_file* file, int flags) {
    if (Deadly()) Die();
    return methods_[file]->xSync(file, flags);
  }

  static inline sqlite3_vfs* original_ = nullptr;
  static inline sqlite3_vfs vfs_;
  static inline std::map<sqlite3_file*, const sqlite3_io_methods*> methods_;
  static inline int points_ = 0;
  static inline int deadly_point_ = 0;
};

TEST(KillTest, SqliteKeepsWhatItAcknowledgedAndNothingHalf) {
  int point = 0;
  bool killed = true;
  while (killed) {
    ++point;
    SCOPED_TRACE(absl::StrCat("killed at point ", point));
    const testing::TemporaryFolder folder;
    const auto path = folder.path() / "store.db";
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      DeadlyFileSystem::Install(point);
      int code = 1;
      {
        auto store = SqliteStateStore::Open(path);
        if (store.ok()) code = RunCommits(store->get(), "c", ends[1]);
      }
      _exit(code);
    }
    close(ends[1]);
    const Ended ended = WaitFor(child, ends[0]);
    killed = ended.killed;
    auto store = SqliteStateStore::Open(path);
    ASSERT_TRUE(store.ok()) << store.status();
    const auto snapshot = (*store)->Load();
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    ExpectWhole(*snapshot, "c", ended.acknowledged);
    // And it goes on from there.
    Writes again;
    again.nodes["again"].set_name("again");
    ASSERT_TRUE((*store)->Commit(again).ok());
    if (HasFailure()) return;
  }
  // Opening, three commits of several pages, and the checkpoint at the end.
  EXPECT_GT(point, 60);
  RecordProperty("points", point);
}

// Stands between a client and PostgreSQL, and kills the client at its n-th message. Each message
// counts three times: the client ends before it, half way through it, and after it was delivered
// but before its answer.
class DeadlyRelay {
 public:
  DeadlyRelay(const std::filesystem::path& folder, std::filesystem::path server)
      : server_(std::move(server)) {
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = Address(folder / testing::Postgres::kSocketName);
    EXPECT_EQ(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
  }
  ~DeadlyRelay() { close(listener_); }

  // One connection of `client`, to its end.
  void Run(pid_t client, int deadly_point) {
    const int to_client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const int to_server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = Address(server_);
    EXPECT_EQ(connect(to_server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    int point = 0;
    std::string buffer(1 << 20, '\0');
    pollfd ends[2] = {{to_client, POLLIN, 0}, {to_server, POLLIN, 0}};
    while (poll(ends, 2, -1) > 0) {
      if (ends[1].revents != 0) {
        const ssize_t size = read(to_server, buffer.data(), buffer.size());
        if (size <= 0) break;
        Send(to_client, buffer.data(), size);
      }
      if (ends[0].revents == 0) continue;
      const ssize_t size = read(to_client, buffer.data(), buffer.size());
      if (size <= 0) break;
      if (deadly_point <= point + 3) {
        const int how = deadly_point - point;
        if (how > 1) Send(to_server, buffer.data(), how == 2 ? size / 2 : size);
        kill(client, SIGKILL);
        break;
      }
      point += 3;
      Send(to_server, buffer.data(), size);
    }
    close(to_client);
    close(to_server);
  }

 private:
  static sockaddr_un Address(const std::filesystem::path& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return address;
  }
  static void Send(int to, const char* data, ssize_t size) {
    while (size > 0) {
      const ssize_t sent = send(to, data, static_cast<size_t>(size), MSG_NOSIGNAL);
      if (sent <= 0) return;
      data += sent;
      size -= sent;
    }
  }

  const std::filesystem::path server_;
  int listener_ = -1;
};

TEST(KillTest, PostgresKeepsWhatItAcknowledgedAndNothingHalf) {
  if (!testing::Postgres::Installed()) GTEST_SKIP() << "PostgreSQL is not installed";
  testing::Postgres postgres;
  const std::string url = postgres.NewDatabase();
  const testing::TemporaryFolder folder;
  DeadlyRelay relay(folder.path(), postgres.socket());
  const base::SystemClock clock;
  PostgresLeaderLease::Options options;
  options.url = url;
  options.duration = absl::Minutes(30);
  auto lease = PostgresLeaderLease::Create(options, clock);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_TRUE((*lease)->TryAcquire().ok());
  auto reader = PostgresStateStore::Create(url, lease->get());
  ASSERT_TRUE((*reader)->Commit(Writes()).ok());

  int point = 0;
  bool killed = true;
  while (killed) {
    ++point;
    SCOPED_TRACE(absl::StrCat("killed at point ", point));
    const std::string prefix = absl::StrCat("p", point);
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      // It leads by the parent's lease, which is inherited.
      auto store =
          PostgresStateStore::Create(testing::Postgres::Through(url, folder.path()), lease->get());
      _exit(store.ok() ? RunCommits(store->get(), prefix, ends[1]) : 1);
    }
    close(ends[1]);
    relay.Run(child, point);
    const Ended ended = WaitFor(child, ends[0]);
    killed = ended.killed;
    // Its last transaction may still be ending.
    const absl::Status written = (*reader)->Commit(CommitOf(absl::StrCat("after", point), 1));
    ASSERT_TRUE(written.ok()) << written;
    while (postgres.Query(url,
                          "SELECT count(*) FROM pg_stat_activity WHERE datname = "
                          "current_database() AND application_name = 'muster-coordinator'") !=
           "2") {
    }
    const auto snapshot = (*reader)->Load();
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    ExpectWhole(*snapshot, prefix, ended.acknowledged);
    if (HasFailure()) return;
  }
  EXPECT_GT(point, 3 * 3 * 6);
  RecordProperty("points", point);
}

}  // namespace
}  // namespace muster::coordinator
