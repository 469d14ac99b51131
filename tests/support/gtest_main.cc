#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

namespace {

// In the environment of all programs that this one starts, however far they are removed from it.
constexpr char kMark[] = "MUSTER_STARTED_BY_TEST";

std::string ReadAll(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Leftover {
  pid_t pid;
  std::string command;
};

std::vector<Leftover> Leftovers(const std::string& mark) {
  std::string entry_of_environment(1, '\0');
  entry_of_environment.append(mark).push_back('\0');
  std::vector<Leftover> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      continue;
    }
    std::string environment(1, '\0');
    environment.append(ReadAll(entry.path() / "environ"));
    if (environment.find(entry_of_environment) == std::string::npos) continue;
    std::string command = ReadAll(entry.path() / "cmdline");
    std::replace(command.begin(), command.end(), '\0', ' ');
    found.push_back({static_cast<pid_t>(std::stol(name)), command});
  }
  return found;
}

// A test ends what it has started. What is on its way out gets a moment; the rest is killed, and
// fails the program.
bool LeavesNothingBehind(const std::string& mark) {
  constexpr int kTurns = 100;
  constexpr useconds_t kTurn = 50'000;
  std::vector<Leftover> left = Leftovers(mark);
  for (int turn = 0; !left.empty() && turn < kTurns; ++turn) {
    usleep(kTurn);
    left = Leftovers(mark);
  }
  for (const Leftover& leftover : left) {
    std::fprintf(stderr, "a test has left process %d behind: %s\n", static_cast<int>(leftover.pid),
                 leftover.command.c_str());
    kill(leftover.pid, SIGKILL);
  }
  return left.empty();
}

}  // namespace

// Exit code 77 (CTest's "skipped") only when every test that ran was skipped and none failed. With
// MUSTER_FORBID_SKIPS=1 (CI, where the data sets and tools are promised) a skip is a failure.
int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  const std::string id = std::to_string(getpid());
  setenv(kMark, id.c_str(), 1);
  std::string mark = kMark;
  mark.append("=").append(id);
  const int result = RUN_ALL_TESTS();
  if (!LeavesNothingBehind(mark)) return 1;
  const testing::UnitTest& unit = *testing::UnitTest::GetInstance();
  const int skipped = unit.skipped_test_count();
  const char* forbid = std::getenv("MUSTER_FORBID_SKIPS");
  if (skipped > 0 && forbid != nullptr && forbid[0] == '1') {
    std::fprintf(stderr, "%d tests skipped, which MUSTER_FORBID_SKIPS=1 forbids\n", skipped);
    return 1;
  }
  if (result == 0 && skipped > 0 && unit.successful_test_count() == 0) return 77;
  return result;
}
