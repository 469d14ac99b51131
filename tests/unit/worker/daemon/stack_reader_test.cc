#include "worker/daemon/stack_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/process.h"

namespace muster::worker {

// Functions with names to look for.
__attribute__((noinline)) char BlockInRead(int fd) {
  char byte = 0;
  // Not the function's last call, which could take its place on the stack.
  if (read(fd, &byte, 1) != 1) _exit(3);
  return byte;
}
__attribute__((noinline)) void Spin(std::atomic<int64_t>* turns) {
  while (true) turns->fetch_add(1);
}

namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// A forked child that runs `body`, killed with the object.
class Child {
 public:
  explicit Child(const std::function<void()>& body) : pid_(fork()) {
    if (pid_ != 0) return;
    body();
    _exit(0);
  }
  ~Child() {
    if (ended_) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  bool AwaitState(const std::string& state) const {
    return testing::WaitUntil([&] { return StateOf(pid_) == state; }, absl::Seconds(20));
  }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    return status;
  }

 private:
  const pid_t pid_;
  bool ended_ = false;
};

class StackReaderTest : public ::testing::Test {
 protected:
  StackReaderTest() {
    EXPECT_EQ(pipe(pipe_), 0);
    void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    turns_ = new (shared) std::atomic<int64_t>(0);
  }
  ~StackReaderTest() override {
    close(pipe_[0]);
    close(pipe_[1]);
    munmap(turns_, 4096);
  }
  void Unblock() const { EXPECT_EQ(write(pipe_[1], "x", 1), 1); }

  int pipe_[2];
  std::atomic<int64_t>* turns_;
};

TEST_F(StackReaderTest, ShowsTheReadThatAProcessIsBlockedIn) {
  Child child([this] { BlockInRead(pipe_[0]); });
  ASSERT_TRUE(child.AwaitState("S"));
  const auto stacks = ReadStacks(child.pid());
  ASSERT_TRUE(stacks.ok()) << stacks.status();
  ASSERT_EQ(stacks->size(), 1u);
  EXPECT_EQ((*stacks)[0].thread, child.pid());
  EXPECT_EQ((*stacks)[0].state, "S");
  EXPECT_THAT((*stacks)[0].frames[0], HasSubstr("read"));
  EXPECT_THAT((*stacks)[0].frames, Contains(StartsWith("muster::worker::BlockInRead(int)")));
  EXPECT_THAT((*stacks)[0].frames, Contains("main"));
  EXPECT_THAT(DescribeStacks(child.pid(), *stacks),
              AllOf(HasSubstr("(unit.worker.dae, state S)\n  #0 "),
                    HasSubstr(" muster::worker::BlockInRead(int)\n")));
  // It goes on as if nothing had been.
  Unblock();
  EXPECT_EQ(child.Wait(), 0);
}

TEST_F(StackReaderTest, AStoppedProcessStaysStopped) {
  Child child([this] { BlockInRead(pipe_[0]); });
  ASSERT_TRUE(child.AwaitState("S"));
  ASSERT_EQ(kill(child.pid(), SIGSTOP), 0);
  ASSERT_TRUE(child.AwaitState("T"));
  const auto stacks = ReadStacks(child.pid());
  ASSERT_TRUE(stacks.ok()) << stacks.status();
  EXPECT_EQ((*stacks)[0].state, "T");
  EXPECT_THAT((*stacks)[0].frames, Contains(StartsWith("muster::worker::BlockInRead(int)")));
  EXPECT_TRUE(child.AwaitState("T"));
  Unblock();
  EXPECT_TRUE(child.AwaitState("T"));
  ASSERT_EQ(kill(child.pid(), SIGCONT), 0);
  EXPECT_EQ(child.Wait(), 0);
}

TEST_F(StackReaderTest, AProcessThatComputesGoesOn) {
  Child child([this] { Spin(turns_); });
  ASSERT_TRUE(testing::WaitUntil([&] { return turns_->load() > 0; }, absl::Seconds(20)));
  const auto stacks = ReadStacks(child.pid());
  ASSERT_TRUE(stacks.ok()) << stacks.status();
  EXPECT_THAT((*stacks)[0].frames, Contains(StartsWith("muster::worker::Spin(")));
  const int64_t turns = turns_->load();
  EXPECT_TRUE(testing::WaitUntil([&] { return turns_->load() > turns; }, absl::Seconds(20)));
}

TEST_F(StackReaderTest, ThreadsThatDoTheSameAreShownOnce) {
  Child child([this] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([this] {
        turns_->fetch_add(1);
        BlockInRead(pipe_[0]);
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  ASSERT_TRUE(testing::WaitUntil([&] { return turns_->load() == 3; }, absl::Seconds(20)));
  std::string text;
  ASSERT_TRUE(testing::WaitUntil(
      [&] {
        const auto stacks = ReadStacks(child.pid());
        if (!stacks.ok() || stacks->size() != 4) return false;
        text = DescribeStacks(child.pid(), *stacks);
        return text.find("\nthreads ") != std::string::npos;
      },
      absl::Seconds(20)))
      << text;
  EXPECT_EQ(text.find("BlockInRead"), text.rfind("BlockInRead")) << text;
  for (int i = 0; i < 3; ++i) Unblock();
  EXPECT_EQ(child.Wait(), 0);
}

TEST_F(StackReaderTest, LimitsAreKept) {
  Child child([this] { BlockInRead(pipe_[0]); });
  ASSERT_TRUE(child.AwaitState("S"));
  const auto stacks = ReadStacks(child.pid(), {.most_frames = 2});
  ASSERT_TRUE(stacks.ok()) << stacks.status();
  EXPECT_EQ((*stacks)[0].frames.size(), 2u);
}

TEST_F(StackReaderTest, AProcessThatIsGoneIsNotFound) {
  Child child([] {});
  child.Wait();
  EXPECT_EQ(ReadStacks(child.pid()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(StateOf(child.pid()), "");
}

TEST_F(StackReaderTest, WhatMayNotBeLookedAtIsSaid) {
  Child child([this] {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    BlockInRead(pipe_[0]);
  });
  // Somebody else traces it: the test's own thread, and not the reader's.
  absl::Status status;
  ASSERT_TRUE(testing::WaitUntil(
      [&] {
        status = ReadStacks(child.pid()).status();
        return !status.ok();
      },
      absl::Seconds(20)));
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not let the worker look"));
}

}  // namespace
}  // namespace muster::worker
