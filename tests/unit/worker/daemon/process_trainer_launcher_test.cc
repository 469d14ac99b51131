#include "worker/daemon/process_trainer_launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The exit of one rank, awaited.
class Ended {
 public:
  TrainerLauncher::ExitCallback Callback() {
    return [this](const RankExit& exit) {
      absl::MutexLock lock(&mutex_);
      exit_ = exit;
    };
  }
  std::optional<RankExit> Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(
        absl::Condition(
            +[](std::optional<RankExit>* exit) { return exit->has_value(); }, &exit_),
        absl::Seconds(20));
    return exit_;
  }

 private:
  absl::Mutex mutex_;
  std::optional<RankExit> exit_;
};

// Real shims (muster-worker shim) and programs.
class ProcessTrainerLauncherTest : public ::testing::Test {
 protected:
  std::unique_ptr<ProcessTrainerLauncher> MakeLauncher() {
    return std::make_unique<ProcessTrainerLauncher>(
        std::vector<std::string>{(testing::ProgramFolder() / "muster-worker").string(), "shim"},
        clock_);
  }
  LaunchSpec Shell(const std::string& script) const {
    LaunchSpec spec;
    spec.folder = rank();
    spec.command = {"/bin/sh", "-c", script};
    return spec;
  }
  std::filesystem::path rank() const { return folder_.path() / "rank-0"; }
  std::string Text(const std::string& name) const {
    return base::ReadFile(rank() / name).value_or("");
  }
  // Until the program says so on its standard output.
  bool WaitForOutput(const std::string& text) const {
    return testing::WaitUntil([&] { return Text("stdout.log").find(text) != std::string::npos; },
                              absl::Seconds(20));
  }

  testing::TemporaryFolder folder_;
  base::SystemClock clock_;
  Ended ended_;
};

TEST_F(ProcessTrainerLauncherTest, KeepsOutputEnvironmentAndExitCode) {
  const auto launcher = MakeLauncher();
  LaunchSpec spec = Shell("echo \"out $RANK\"; echo err >&2; exit 12");
  spec.environment = {{"RANK", "5"}};
  const auto process = launcher->Launch(spec, ended_.Callback());
  ASSERT_TRUE(process.ok()) << process.status();
  const std::optional<RankExit> exit = ended_.Wait();
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 12);
  EXPECT_EQ(exit->signal, 0);
  EXPECT_LT(absl::Now() - exit->time, absl::Minutes(1));
  EXPECT_EQ(DescribeExit(*exit), "exited with code 12 (data error)");
  EXPECT_EQ(Text("stdout.log"), "out 5\n");
  EXPECT_EQ(Text("stderr.log"), "err\n");
  EXPECT_FALSE(RankMayRun(rank()));
}

TEST_F(ProcessTrainerLauncherTest, AProgramThatIsNotThereIsAnErrorInTheLog) {
  const auto launcher = MakeLauncher();
  LaunchSpec spec;
  spec.folder = rank();
  spec.command = {"/absent/muster-trainer"};
  ASSERT_TRUE(launcher->Launch(spec, ended_.Callback()).ok());
  ASSERT_TRUE(ended_.Wait().has_value());
  EXPECT_EQ(ended_.Wait()->exit_code, base::kExitInternal);
  EXPECT_THAT(LastLines(rank() / "stderr.log", 50),
              ElementsAre(HasSubstr("/absent/muster-trainer")));
}

TEST_F(ProcessTrainerLauncherTest, SignalsReachTheWholeGroupAndNothingIsLeft) {
  const auto launcher = MakeLauncher();
  // The trap keeps the shell; the child in a session of its own must go as well.
  const auto process = launcher->Launch(Shell("trap 'echo asked' TERM; setsid sleep 1000 & echo $! "
                                              "ready; while :; do sleep 0.05; done"),
                                        ended_.Callback());
  ASSERT_TRUE(process.ok());
  ASSERT_TRUE(WaitForOutput("ready"));
  pid_t child = 0;
  const std::string line = Text("stdout.log");
  ASSERT_TRUE(absl::SimpleAtoi(line.substr(0, line.find(' ')), &child));
  const std::optional<ProcessIdentity> identity = IdentifyProcess(child);
  ASSERT_TRUE(identity.has_value());

  (*process)->Signal(SIGTERM);
  EXPECT_TRUE(WaitForOutput("asked"));
  EXPECT_TRUE(RankMayRun(rank()));
  (*process)->Signal(SIGKILL);
  ASSERT_TRUE(ended_.Wait().has_value());
  EXPECT_EQ(ended_.Wait()->signal, SIGKILL);
  EXPECT_EQ(DescribeExit(*ended_.Wait()), "killed by SIGKILL");
  EXPECT_FALSE(IsRunning(*identity));
}

TEST_F(ProcessTrainerLauncherTest, AKilledShimTakesItsProgramWithIt) {
  const auto launcher = MakeLauncher();
  ASSERT_TRUE(launcher->Launch(Shell("echo ready; exec sleep 1000"), ended_.Callback()).ok());
  ASSERT_TRUE(WaitForOutput("ready"));
  // pid.json may come after the program's first words.
  ASSERT_TRUE(
      testing::WaitUntil([&] { return ReadRankProcesses(rank()).ok(); }, absl::Seconds(20)));
  const RankProcesses processes = *ReadRankProcesses(rank());
  ASSERT_EQ(kill(processes.shim.pid, SIGKILL), 0);
  ASSERT_TRUE(ended_.Wait().has_value());
  EXPECT_EQ(ended_.Wait()->signal, SIGKILL);
  EXPECT_FALSE(IsRunning(processes.trainer));
}

TEST_F(ProcessTrainerLauncherTest, ASecondLauncherAdoptsARunningAndAnEndedRank) {
  auto launcher = MakeLauncher();
  ASSERT_TRUE(launcher
                  ->Launch(Shell("echo ready; while [ ! -e " + (folder_.path() / "go").string() +
                                 " ]; do sleep 0.02; done; exit 7"),
                           [](const RankExit&) { ADD_FAILURE() << "the first launcher is gone"; })
                  .ok());
  ASSERT_TRUE(WaitForOutput("ready"));
  ASSERT_TRUE(
      testing::WaitUntil([&] { return ReadRankProcesses(rank()).ok(); }, absl::Seconds(20)));
  launcher = MakeLauncher();
  const auto process = launcher->Adopt(rank(), ended_.Callback());
  ASSERT_TRUE(process.ok()) << process.status();
  std::ofstream(folder_.path() / "go") << "go";
  ASSERT_TRUE(ended_.Wait().has_value());
  EXPECT_EQ(ended_.Wait()->exit_code, 7);

  Ended again;
  ASSERT_TRUE(launcher->Adopt(rank(), again.Callback()).ok());
  ASSERT_TRUE(again.Wait().has_value());
  EXPECT_EQ(again.Wait()->exit_code, 7);
}

TEST_F(ProcessTrainerLauncherTest, ARankWhoseEndNobodySawCannotBeAdopted) {
  auto launcher = MakeLauncher();
  ASSERT_TRUE(launcher->Launch(Shell("echo ready; exec sleep 1000"), ended_.Callback()).ok());
  ASSERT_TRUE(WaitForOutput("ready"));
  ASSERT_TRUE(
      testing::WaitUntil([&] { return ReadRankProcesses(rank()).ok(); }, absl::Seconds(20)));
  const RankProcesses processes = *ReadRankProcesses(rank());
  launcher.reset();
  ASSERT_EQ(kill(processes.shim.pid, SIGKILL), 0);
  ASSERT_TRUE(testing::WaitUntil([&] { return !IsRunning(processes.shim); }, absl::Seconds(20)));
  launcher = MakeLauncher();
  const absl::Status adopted = launcher->Adopt(rank(), ended_.Callback()).status();
  EXPECT_TRUE(absl::IsNotFound(adopted)) << adopted;
  EXPECT_THAT(std::string(adopted.message()), HasSubstr("killed together with its shim"));
  EXPECT_FALSE(IsRunning(processes.trainer));
}

TEST_F(ProcessTrainerLauncherTest, AnEmptyFolderCannotBeAdopted) {
  const auto launcher = MakeLauncher();
  EXPECT_TRUE(absl::IsNotFound(launcher->Adopt(rank(), ended_.Callback()).status()));
}

TEST_F(ProcessTrainerLauncherTest, TheProgramInheritsTheMasterSocketAndNothingElse) {
  absl::StatusOr<ListeningSocket> master = ListenOn("127.0.0.1");
  ASSERT_TRUE(master.ok()) << master.status();
  // Left open on purpose, and inheritable, as a careless library would.
  const UniqueFd stray(dup(master->fd.get()));
  const auto launcher = MakeLauncher();
  LaunchSpec spec = Shell("ls -l /proc/self/fd");
  spec.inherited_fd = master->fd.get();
  ASSERT_TRUE(launcher->Launch(spec, ended_.Callback()).ok());
  ASSERT_TRUE(ended_.Wait().has_value());
  const std::string listed = Text("stdout.log");
  EXPECT_THAT(listed, HasSubstr("3 -> socket:"));
  size_t sockets = 0;
  for (size_t at = listed.find("socket:"); at != std::string::npos;
       at = listed.find("socket:", at + 1)) {
    ++sockets;
  }
  EXPECT_EQ(sockets, 1u) << listed;
}

TEST(ProcessIdentityTest, TellsAReusedNumberFromTheProcess) {
  const std::optional<ProcessIdentity> self = IdentifyProcess(getpid());
  ASSERT_TRUE(self.has_value());
  EXPECT_TRUE(IsRunning(*self));
  ProcessIdentity other = *self;
  other.start_ticks += 1;
  EXPECT_FALSE(IsRunning(other));
  EXPECT_FALSE(WatchProcess(other).valid());
  EXPECT_EQ(ParentOf(getpid()), getppid());
}

}  // namespace
}  // namespace muster::worker
