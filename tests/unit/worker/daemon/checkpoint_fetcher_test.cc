#include "worker/daemon/checkpoint_fetcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

#include "common/base/files.h"
#include "common/security/digest.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/checkpoint_files.h"
#include "tests/unit/worker/daemon/scripted_source.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/daemon/checkpoint_server.h"

namespace muster::worker {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

class CheckpointFetcherTest : public ::testing::Test {
 protected:
  CheckpointFetcherTest() {
    options_.silence = absl::Seconds(5);
    options_.patience = absl::Milliseconds(200);
    options_.pause = absl::Milliseconds(10);
    options_.progress_interval = absl::ZeroDuration();
    job_.set_job("jobs/a");
    job_.set_job_uid("0123456789abcdef");
    bytes_ = PthBytes(3'000'000);
    checkpoint_ = WriteCheckpoint(state_->OutputFolder(job_), 120, bytes_);
    digest_ = absl::BytesToHexString(security::Sha256(bytes_));
    std::filesystem::create_directories(folder());
  }

  // Of the node that fetches.
  std::filesystem::path folder() const { return files_.path() / "output"; }

  struct Running {
    std::shared_ptr<CheckpointFetcher::Fetch> fetch;
    absl::Notification done;
    CheckpointFetcher::Outcome outcome;
    std::vector<std::string> details;
  };
  std::unique_ptr<Running> Start(std::vector<v1::CheckpointServer> sources) {
    if (!fetcher_.has_value()) fetcher_.emplace("c", clock_, options_);
    auto running = std::make_unique<Running>();
    CheckpointFetcher::Request request;
    request.checkpoint = checkpoint_;
    request.job_uid = job_.job_uid();
    request.sources = std::move(sources);
    request.folder = folder();
    running->fetch = fetcher_->Start(
        std::move(request),
        [state = running.get()](const std::string& detail) { state->details.push_back(detail); },
        [state = running.get()](const CheckpointFetcher::Outcome& outcome) {
          state->outcome = outcome;
          state->done.Notify();
        });
    return running;
  }
  CheckpointFetcher::Outcome Fetch(std::vector<v1::CheckpointServer> sources) {
    const std::unique_ptr<Running> running = Start(std::move(sources));
    EXPECT_TRUE(running->done.WaitForNotificationWithTimeout(absl::Seconds(60)));
    details_ = running->details;
    return running->outcome;
  }

  // Answers as a right server would, but for what `wrong` does (true: it has answered).
  using Wrong = std::function<bool(const ScriptedSource::Request&, TlsSocket*)>;
  ScriptedSource::Script Right(Wrong wrong = nullptr) const {
    return [this, wrong](const ScriptedSource::Request& request, TlsSocket* socket) {
      if (wrong && wrong(request, socket)) return;
      if (request.EndsWith(".json")) {
        ScriptedSource::Reply(socket, 200, Description(checkpoint_));
      } else if (request.EndsWith(".sha256")) {
        ScriptedSource::Reply(socket, 200, digest_);
      } else {
        ScriptedSource::Reply(socket, request.from > 0 ? 206 : 200,
                              bytes_.substr(static_cast<size_t>(request.from)));
      }
    };
  }
  static bool IsFile(const ScriptedSource::Request& request) { return request.EndsWith(".pth"); }

  void ExpectFetched() const {
    const std::vector<v1::Checkpoint> held = checkpoint::ListCheckpoints(folder(), "test");
    ASSERT_THAT(held, SizeIs(1));
    EXPECT_EQ(held[0].SerializeAsString(), checkpoint_.SerializeAsString());
    EXPECT_TRUE(*base::ReadFile(folder() / "step_120.pth") == bytes_);
    EXPECT_THAT(Files(), ElementsAre("latest.pth", "step_120.pth", "step_120.pth.json"));
    EXPECT_EQ(Latest(), "step_120.pth");
  }
  std::string Latest() const { return std::filesystem::read_symlink(folder() / "latest.pth"); }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder())) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  testing::TemporaryFolder files_;
  base::SystemClock clock_;
  std::optional<StateFolder> state_{*StateFolder::Open(files_.path() / "state")};
  v1::Allocation job_;
  std::string bytes_;
  std::string digest_;
  v1::Checkpoint checkpoint_;
  CheckpointFetcher::Options options_;
  std::vector<std::string> details_;
  std::optional<CheckpointFetcher> fetcher_;
};

TEST_F(CheckpointFetcherTest, FetchesFromAnotherWorker) {
  CheckpointServer server("b", *state_, clock_);
  const CheckpointFetcher::Outcome outcome = Fetch({*server.Listen("127.0.0.1")});
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.not_held_by, IsEmpty());
  ExpectFetched();
  ASSERT_FALSE(details_.empty());
  EXPECT_EQ(details_.front(), "fetching step_120.pth from nodes/b: 0 of 4 MB");
  EXPECT_EQ(details_.back(), "fetching step_120.pth from nodes/b: 3 of 4 MB");
}

TEST_F(CheckpointFetcherTest, GoesOnWhereAConnectionBroke) {
  bool broken = false;
  ScriptedSource source("b", Right([&](const auto& request, TlsSocket* socket) {
                          if (!IsFile(request) || broken) return false;
                          broken = true;
                          ScriptedSource::ReplyPart(socket, 200,
                                                    static_cast<int64_t>(bytes_.size()),
                                                    bytes_.substr(0, 1'000'000));
                          return true;
                        }));
  const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  ExpectFetched();
  std::vector<int64_t> from;
  for (const auto& request : source.requests()) {
    if (IsFile(request)) from.push_back(request.from);
  }
  EXPECT_THAT(from, ElementsAre(0, 1'000'000));
}

TEST_F(CheckpointFetcherTest, GoesOnAtAnotherSource) {
  ScriptedSource first("b", Right([&](const auto& request, TlsSocket* socket) {
                         if (!IsFile(request)) return false;
                         ScriptedSource::ReplyPart(
                             socket, 200, static_cast<int64_t>(bytes_.size()),
                             request.from == 0 ? bytes_.substr(0, 1'000'000) : "");
                         return true;
                       }));
  CheckpointServer second("d", *state_, clock_);
  const CheckpointFetcher::Outcome outcome =
      Fetch({first.described(), *second.Listen("127.0.0.1")});
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  ExpectFetched();
  EXPECT_THAT(details_, Contains("fetching step_120.pth from nodes/d: 1 of 4 MB"));
}

TEST_F(CheckpointFetcherTest, UnreachableSourceFailsInOneClearLine) {
  v1::CheckpointServer gone;
  {
    ScriptedSource source("b", Right());
    gone = source.described();
  }
  const CheckpointFetcher::Outcome outcome = Fetch({gone});
  EXPECT_TRUE(absl::IsUnavailable(outcome.status));
  EXPECT_EQ(outcome.status.message(),
            absl::StrCat("nodes/c cannot fetch step_120.pth from nodes/b at ", gone.address(),
                         ": connection refused; open TCP between the nodes or pass "
                         "--advertise-address"));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(CheckpointFetcherTest, LyingLengthIsNoCheckpoint) {
  ScriptedSource source("b", Right([&](const auto& request, TlsSocket* socket) {
                          if (!IsFile(request)) return false;
                          ScriptedSource::Reply(socket, 200, bytes_.substr(0, 500'000));
                          return true;
                        }));
  const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
  EXPECT_TRUE(absl::IsUnavailable(outcome.status));
  EXPECT_THAT(std::string(outcome.status.message()),
              HasSubstr(absl::StrCat("it sends 500000 bytes where ", bytes_.size())));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(CheckpointFetcherTest, DamagedBytesAreFetchedAnewOnce) {
  ScriptedSource source("b", Right([&](const auto& request, TlsSocket* socket) {
                          if (!IsFile(request)) return false;
                          std::string damaged = bytes_;
                          damaged[1000] ^= 1;
                          ScriptedSource::Reply(socket, 200, damaged);
                          return true;
                        }));
  const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
  EXPECT_TRUE(absl::IsUnavailable(outcome.status));
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("it arrived damaged"));
  EXPECT_THAT(Files(), IsEmpty());
  const std::vector<ScriptedSource::Request> requests = source.requests();
  EXPECT_EQ(std::count_if(requests.begin(), requests.end(), IsFile), 2);
}

TEST_F(CheckpointFetcherTest, AnotherCheckpointUnderTheNameIsNotIt) {
  v1::Checkpoint other = checkpoint_;
  other.set_digest("of a branch that was given up");
  ScriptedSource source("b", Right([&](const auto& request, TlsSocket* socket) {
                          if (!request.EndsWith(".json")) return false;
                          ScriptedSource::Reply(socket, 200, Description(other));
                          return true;
                        }));
  const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.not_held_by, ElementsAre("b"));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(CheckpointFetcherTest, TellsWhoDoesNotHoldIt) {
  std::filesystem::remove(state_->OutputFolder(job_) / "step_120.pth.json");
  CheckpointServer server("b", *state_, clock_);
  ScriptedSource other("d", Right());
  const CheckpointFetcher::Outcome outcome =
      Fetch({*server.Listen("127.0.0.1"), other.described()});
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.not_held_by, ElementsAre("b"));
  ExpectFetched();
}

TEST_F(CheckpointFetcherTest, OnlyTheAnnouncedCertificateIsTrusted) {
  ScriptedSource source("b", Right());
  ScriptedSource other("d", Right());
  v1::CheckpointServer forged = source.described();
  forged.set_certificate(other.described().certificate());
  const CheckpointFetcher::Outcome outcome = Fetch({forged});
  EXPECT_THAT(std::string(outcome.status.message()),
              AllOf(StartsWith("nodes/c cannot fetch step_120.pth from nodes/b at 127.0.0.1:"),
                    HasSubstr("another certificate"), Not(HasSubstr("open TCP"))));
  EXPECT_THAT(source.requests(), IsEmpty()) << "it was told the token";
}

TEST_F(CheckpointFetcherTest, RefusedTokenIsSaid) {
  CheckpointServer server("b", *state_, clock_);
  v1::CheckpointServer old = *server.Listen("127.0.0.1");
  old.set_token("of the daemon before");
  EXPECT_THAT(std::string(Fetch({old}).status.message()),
              HasSubstr("it does not take our token: its worker was started again"));
}

TEST_F(CheckpointFetcherTest, FullDiskIsSaidBeforeAnythingIsFetched) {
  options_.free_bytes = [](const std::filesystem::path&) { return int64_t{2'000'000}; };
  ScriptedSource source("b", Right());
  const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
  EXPECT_TRUE(absl::IsUnavailable(outcome.status));
  EXPECT_THAT(
      std::string(outcome.status.message()),
      AllOf(HasSubstr("19.8 MB are needed in "), HasSubstr(folder().string()),
            HasSubstr(" and 2.0 MB are free: make room there"), Not(HasSubstr("open TCP"))));
  EXPECT_THAT(source.requests(), SizeIs(1));
  EXPECT_THAT(Files(), IsEmpty());
}

// The disk is filled by somebody else meanwhile. Needs root, for a small file system of its own.
class FullDiskFetchTest : public CheckpointFetcherTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "cannot mount a file system here";
    options_.free_bytes = [](const std::filesystem::path&) { return int64_t{1} << 40; };
  }
  void TearDown() override { umount2(folder().c_str(), MNT_DETACH); }

  void ExpectNothingIsLeftOnADiskOf(size_t bytes, const std::string& file) {
    ASSERT_EQ(mount("tmpfs", folder().c_str(), "tmpfs", 0, absl::StrCat("size=", bytes).c_str()),
              0);
    ScriptedSource source("b", Right());
    const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
    EXPECT_TRUE(absl::IsUnavailable(outcome.status));
    EXPECT_THAT(std::string(outcome.status.message()),
                AllOf(StartsWith("nodes/c cannot fetch step_120.pth from nodes/b at "),
                      EndsWith(absl::StrCat(": write ", (folder() / file).string(),
                                            ": No space left on device; make room there"))));
    EXPECT_THAT(Files(), IsEmpty());
    const std::vector<ScriptedSource::Request> requests = source.requests();
    EXPECT_EQ(std::count_if(requests.begin(), requests.end(), IsFile), 1) << "it tried again";
  }
};

TEST_F(FullDiskFetchTest, AFileThatDoesNotFitIsRemoved) {
  ExpectNothingIsLeftOnADiskOf(1'000'000, "step_120.pth.fetch.part");
}

TEST_F(FullDiskFetchTest, NorIsAFileLeftWithoutItsDescription) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  ExpectNothingIsLeftOnADiskOf((bytes_.size() + page - 1) / page * page, "step_120.pth.json.part");
}

TEST_F(CheckpointFetcherTest, FolderThatCannotBeWrittenIsSaid) {
  std::filesystem::remove(folder());
  ScriptedSource source("b", Right());
  options_.free_bytes = [](const std::filesystem::path&) { return int64_t{1} << 40; };
  EXPECT_THAT(std::string(Fetch({source.described()}).status.message()),
              HasSubstr("create " + folder().string()));
}

TEST_F(CheckpointFetcherTest, SilentSourceIsGivenUp) {
  options_.silence = absl::Milliseconds(200);
  ScriptedSource source("b", [](const ScriptedSource::Request&, TlsSocket* socket) {
    ScriptedSource::FallSilent(socket);
  });
  const absl::Duration began = clock_.Monotonic();
  const CheckpointFetcher::Outcome outcome = Fetch({source.described()});
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr(": connection timed out; open TCP"));
  EXPECT_LT(clock_.Monotonic() - began, absl::Seconds(5));
}

TEST_F(CheckpointFetcherTest, StopsInTheMiddleAtOnce) {
  absl::Notification half;
  ScriptedSource source("b", Right([&](const auto& request, TlsSocket* socket) {
                          if (!IsFile(request)) return false;
                          ScriptedSource::ReplyPart(socket, 200,
                                                    static_cast<int64_t>(bytes_.size()),
                                                    bytes_.substr(0, 1'000'000));
                          half.Notify();
                          ScriptedSource::FallSilent(socket);
                          return true;
                        }));
  const std::unique_ptr<Running> running = Start({source.described()});
  half.WaitForNotification();
  const absl::Duration began = clock_.Monotonic();
  running->fetch->Cancel();
  running->done.WaitForNotification();
  EXPECT_LT(clock_.Monotonic() - began, absl::Seconds(2));
  EXPECT_TRUE(absl::IsCancelled(running->outcome.status)) << running->outcome.status;
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(CheckpointFetcherTest, EndsWithTheFetcher) {
  ScriptedSource source("b", [](const ScriptedSource::Request&, TlsSocket* socket) {
    ScriptedSource::FallSilent(socket);
  });
  const std::unique_ptr<Running> first = Start({source.described()});
  const std::unique_ptr<Running> behind = Start({source.described()});
  fetcher_.reset();
  EXPECT_TRUE(absl::IsCancelled(first->outcome.status));
  EXPECT_TRUE(absl::IsCancelled(behind->outcome.status));
}

TEST_F(CheckpointFetcherTest, WaitsUntilItIsToldOfASource) {
  const std::unique_ptr<Running> running = Start({});
  CheckpointServer server("b", *state_, clock_);
  EXPECT_FALSE(running->done.WaitForNotificationWithTimeout(absl::Milliseconds(400)))
      << "longer than its patience with sources that do not answer";
  running->fetch->SetSources({*server.Listen("127.0.0.1")});
  running->done.WaitForNotification();
  EXPECT_TRUE(running->outcome.status.ok()) << running->outcome.status;
  EXPECT_EQ(running->details.front(), "waits for a node that holds step_120.pth");
  ExpectFetched();
}

TEST_F(CheckpointFetcherTest, TakesNewSourcesInPlaceOfOnesThatFail) {
  options_.patience = absl::Seconds(60);
  v1::CheckpointServer gone;
  {
    ScriptedSource source("b", Right());
    gone = source.described();
  }
  const std::unique_ptr<Running> running = Start({gone});
  CheckpointServer server("b", *state_, clock_);
  running->fetch->SetSources({*server.Listen("127.0.0.1")});
  running->done.WaitForNotification();
  EXPECT_TRUE(running->outcome.status.ok()) << running->outcome.status;
}

TEST_F(CheckpointFetcherTest, LatestIsTheFetchedOneButForWhatTheJobWroteSince) {
  // A branch that was given up: the job went on elsewhere, without its steps.
  WriteCheckpoint(folder(), 200, bytes_);
  std::filesystem::create_symlink("step_200.pth", folder() / "latest.pth");
  checkpoint_.set_generation(2);
  ScriptedSource source("b", Right());
  ASSERT_TRUE(Fetch({source.described()}).status.ok());
  EXPECT_EQ(Latest(), "step_120.pth");

  v1::Checkpoint since = WriteCheckpoint(folder(), 150, bytes_);
  since.set_generation(2);
  ASSERT_TRUE(base::WriteFileAtomically(folder() / "step_150.pth.json", Description(since)).ok());
  std::filesystem::remove(folder() / "latest.pth");
  std::filesystem::create_symlink("step_150.pth", folder() / "latest.pth");
  ASSERT_TRUE(Fetch({source.described()}).status.ok());
  EXPECT_EQ(Latest(), "step_150.pth");
}

TEST_F(CheckpointFetcherTest, ReplacesAFileOfTheSameName) {
  v1::Checkpoint old = WriteCheckpoint(folder(), 120, PthBytes(1000));
  base::WriteFileAtomically(folder() / "step_9.pth.fetch.part", "of a killed daemon").IgnoreError();
  CheckpointServer server("b", *state_, clock_);
  EXPECT_TRUE(Fetch({*server.Listen("127.0.0.1")}).status.ok());
  ExpectFetched();
}

TEST_F(CheckpointFetcherTest, TwoIntoOneFolderComeOneAfterTheOther) {
  CheckpointServer server("b", *state_, clock_);
  const v1::CheckpointServer source = *server.Listen("127.0.0.1");
  const std::unique_ptr<Running> first = Start({source});
  const std::unique_ptr<Running> second = Start({source});
  first->done.WaitForNotification();
  second->done.WaitForNotification();
  EXPECT_TRUE(first->outcome.status.ok()) << first->outcome.status;
  EXPECT_TRUE(second->outcome.status.ok()) << second->outcome.status;
  ExpectFetched();
}

}  // namespace
}  // namespace muster::worker
