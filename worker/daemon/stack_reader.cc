#include "worker/daemon/stack_reader.h"

#include <cxxabi.h>
#include <dirent.h>
#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iterator>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/clock.h"
#include "common/base/files.h"

namespace muster::worker {
namespace {

constexpr size_t kMostNameBytes = 160;
constexpr size_t kMostTextBytes = 32 * 1024;
constexpr size_t kScannedWords = 32 * 1024;
constexpr size_t kNearestCallers = 12;
// Threads that run stop at once.
constexpr absl::Duration kTimeToStop = absl::Milliseconds(500);
constexpr char kOurs[] = "muster::";
constexpr char kWaitsForWork[] = "Mutex::Await";
constexpr char kReporter[] = "muster::train::WorkerReporter::";

std::string ReadLine(const std::string& file) {
  const absl::StatusOr<std::string> text = base::ReadFile(file);
  return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : "";
}

// The letter after the name, which itself may hold blanks and parentheses.
std::string StateIn(const std::string& stat_file) {
  const std::string stat = ReadLine(stat_file);
  const size_t name_end = stat.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= stat.size()
             ? ""
             : stat.substr(name_end + 2, 1);
}

absl::Status NotPermitted() {
  std::string reason = "the kernel does not let the worker look (ptrace: not permitted)";
  const std::string scope = ReadLine("/proc/sys/kernel/yama/ptrace_scope");
  if (scope == "1") {
    // An adopted trainer's shim is a child of init.
    absl::StrAppend(&reason, "; with kernel.yama.ptrace_scope 1 it may look only at trainers that ",
                    "it has started itself, not at those that it has adopted");
  } else if (!scope.empty() && scope != "0") {
    absl::StrAppend(&reason, "; kernel.yama.ptrace_scope is ", scope, ", 1 or 0 is needed");
  }
  return absl::PermissionDeniedError(reason);
}

// A thread of another process, from the moment that it is asked to stop. The kernel lets it go when
// the thread that asked ends.
struct Tracee {
  pid_t thread = 0;
  bool stopped = false;
  // It was about to take this signal, and still has to.
  int signal = 0;
};

bool Gone(pid_t process) {
  std::error_code ignored;
  return !std::filesystem::exists(absl::StrCat("/proc/", process), ignored);
}

std::vector<pid_t> ThreadsOf(pid_t process, size_t most) {
  std::vector<pid_t> threads;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process, "/task"), ignored)) {
    pid_t thread = 0;
    if (absl::SimpleAtoi(entry.path().filename().string(), &thread)) threads.push_back(thread);
  }
  // The oldest, and so the main one, first.
  std::sort(threads.begin(), threads.end(), [&](pid_t a, pid_t b) {
    return std::make_pair(a != process, a) < std::make_pair(b != process, b);
  });
  if (threads.size() > most) threads.resize(most);
  return threads;
}

// Waits until it has stopped; false when it does not before `deadline`, or is gone.
bool AwaitStop(Tracee* tracee, absl::Duration deadline) {
  while (true) {
    int status = 0;
    const pid_t waited = waitpid(tracee->thread, &status, __WALL | WNOHANG);
    if (waited == tracee->thread) {
      if (!WIFSTOPPED(status)) return false;
      tracee->stopped = true;
      if (status >> 16 == 0) tracee->signal = WSTOPSIG(status);
      return true;
    }
    if (waited < 0 || base::MonotonicNow() >= deadline) return false;
    const timespec pause = {0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

// dwfl would look for files of debugging information, also on the network.
int NoDebugInfo(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word,
                char**) {
  return -1;
}

std::string Demangle(const char* name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> plain(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), &std::free);
  std::string text = status == 0 ? plain.get() : name;
  if (text.size() > kMostNameBytes) text = text.substr(0, kMostNameBytes) + "...";
  return text;
}

bool IsOurs(const std::string& frame) { return absl::StartsWith(frame, kOurs); }

class Unwinder {
 public:
  Unwinder(pid_t process, const StackOptions& options, absl::Duration deadline)
      : options_(options), deadline_(deadline) {
    static const Dwfl_Callbacks kCallbacks = {dwfl_linux_proc_find_elf, NoDebugInfo, nullptr,
                                              nullptr};
    dwfl_ = dwfl_begin(&kCallbacks);
    if (dwfl_ == nullptr || dwfl_linux_proc_report(dwfl_, process) != 0 ||
        dwfl_report_end(dwfl_, nullptr, nullptr) != 0) {
      Fail("its memory map cannot be read");
    }
  }
  ~Unwinder() { dwfl_end(dwfl_); }
  Unwinder(const Unwinder&) = delete;
  Unwinder& operator=(const Unwinder&) = delete;

  // Its threads are stopped, by this thread.
  void Attach(pid_t process) {
    if (error_.empty() && dwfl_linux_proc_attach(dwfl_, process, true) != 0) {
      Fail("its threads cannot be unwound");
    }
  }

  void Read(ThreadStack* stack) {
    if (!error_.empty()) {
      stack->error = error_;
      return;
    }
    stack_ = stack;
    const int result = dwfl_getthread_frames(dwfl_, stack->thread, TakeFrame, this);
    if (result < 0 && stack->frames.empty()) {
      stack->error = absl::StrCat("cannot be unwound: ", dwfl_errmsg(-1));
    }
    // Kernels in hand-written assembly say nothing of their frames.
    if (result < 0 && stack->frames.size() == 1 && stack->error.empty()) ScanForCallers();
  }

 private:
  void Fail(const char* what) { error_ = absl::StrCat(what, ": ", dwfl_errmsg(-1)); }

  static int TakeFrame(Dwfl_Frame* frame, void* self) {
    return static_cast<Unwinder*>(self)->Take(frame);
  }
  int Take(Dwfl_Frame* frame) {
    if (stack_->frames.size() >= options_.most_frames) return DWARF_CB_ABORT;
    if (base::MonotonicNow() >= deadline_) {
      stack_->error = "not all was read in time";
      return DWARF_CB_ABORT;
    }
    Dwarf_Addr address = 0;
    bool is_activation = false;
    if (!dwfl_frame_pc(frame, &address, &is_activation)) return DWARF_CB_ABORT;
    // A return address may lie behind the function's end.
    const Dwarf_Addr inside = is_activation ? address : address - 1;
    Dwfl_Module* module = dwfl_addrmodule(dwfl_, inside);
    const char* name = module == nullptr ? nullptr : dwfl_module_addrname(module, inside);
    if (name != nullptr) {
      stack_->frames.push_back(Demangle(name));
      return DWARF_CB_OK;
    }
    const char* file = module == nullptr ? nullptr
                                         : dwfl_module_info(module, nullptr, nullptr, nullptr,
                                                            nullptr, nullptr, nullptr, nullptr);
    stack_->frames.push_back(absl::StrCat(
        "0x", absl::Hex(address), " in ",
        file == nullptr ? "unknown" : std::filesystem::path(file).filename().string()));
    return DWARF_CB_OK;
  }

  // Takes the words of the stack that follow a call instruction for return addresses: all callers'
  // and some that earlier calls left there. After the nearest ones only the trainer's own count.
  void ScanForCallers() {
#if defined(__x86_64__)
    user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, stack_->thread, nullptr, &registers) != 0) return;
    const int memory =
        open(absl::StrCat("/proc/", stack_->thread, "/mem").c_str(), O_RDONLY | O_CLOEXEC);
    if (memory < 0) return;
    std::vector<uint64_t> words(kScannedWords);
    const ssize_t size = pread(memory, words.data(), words.size() * sizeof(words[0]),
                               static_cast<off_t>(registers.rsp));
    words.resize(size < 0 ? 0 : static_cast<size_t>(size) / sizeof(words[0]));
    for (const uint64_t word : words) {
      if (stack_->frames.size() >= options_.most_frames || base::MonotonicNow() >= deadline_) break;
      Dwfl_Module* module = dwfl_addrmodule(dwfl_, word - 1);
      if (module == nullptr || !FollowsCall(memory, word)) continue;
      const char* name = dwfl_module_addrname(module, word - 1);
      if (name == nullptr) continue;
      const std::string function = Demangle(name);
      // Of what was left there, little is ours.
      if (stack_->frames.size() >= kNearestCallers && !IsOurs(function) && function != "main") {
        continue;
      }
      const std::string found = function + " (found on the stack)";
      if (found != stack_->frames.back()) stack_->frames.push_back(found);
    }
    close(memory);
#endif
  }

  // E8 and four bytes, or FF /2 with up to five bytes of operand (Intel's manual, CALL).
  static bool FollowsCall(int memory, uint64_t address) {
    uint8_t before[7];
    if (pread(memory, before, sizeof(before), static_cast<off_t>(address - sizeof(before))) !=
        static_cast<ssize_t>(sizeof(before))) {
      return false;
    }
    const auto indirect = [&](size_t length) {
      return before[7 - length] == 0xff && (before[8 - length] & 0x38) == 0x10;
    };
    return before[2] == 0xe8 || indirect(2) || indirect(3) || indirect(4) || indirect(6) ||
           indirect(7);
  }

  const StackOptions options_;
  const absl::Duration deadline_;
  Dwfl* dwfl_ = nullptr;
  ThreadStack* stack_ = nullptr;
  std::string error_;
};

absl::StatusOr<std::vector<ThreadStack>> Read(pid_t process, const StackOptions& options) {
  const absl::Duration deadline = base::MonotonicNow() + options.timeout;
  std::vector<ThreadStack> stacks;
  for (const pid_t thread : ThreadsOf(process, options.most_threads)) {
    const std::string folder = absl::StrCat("/proc/", process, "/task/", thread);
    ThreadStack& stack = stacks.emplace_back();
    stack.thread = thread;
    stack.name = ReadLine(folder + "/comm");
    // Before it is stopped.
    stack.state = StateIn(folder + "/stat");
    if (stack.state == "D") {
      stack.error = absl::StrCat("in the kernel: ", ReadLine(folder + "/wchan"));
    }
  }
  if (stacks.empty()) return absl::NotFoundError(absl::StrCat("there is no process ", process));

  Unwinder unwinder(process, options, deadline);
  std::vector<Tracee> tracees;
  for (const ThreadStack& stack : stacks) {
    tracees.push_back({stack.thread});
    // Not PTRACE_ATTACH, whose SIGSTOP others would see.
    if (ptrace(PTRACE_SEIZE, stack.thread, nullptr, nullptr) == 0) {
      ptrace(PTRACE_INTERRUPT, stack.thread, nullptr, nullptr);
    } else if (errno == EPERM && stack.thread == process && !Gone(process) &&
               StateOf(process) != "Z") {
      return NotPermitted();
    } else {
      tracees.back().thread = 0;
    }
  }
  const absl::Duration stop_deadline = std::min(deadline, base::MonotonicNow() + kTimeToStop);
  for (Tracee& tracee : tracees) {
    if (tracee.thread != 0) AwaitStop(&tracee, stop_deadline);
  }
  unwinder.Attach(process);
  for (size_t i = 0; i < stacks.size(); ++i) {
    if (tracees[i].stopped) {
      unwinder.Read(&stacks[i]);
    } else if (stacks[i].error.empty()) {
      stacks[i].error = "cannot be stopped";
    }
  }
  for (const Tracee& tracee : tracees) {
    if (tracee.stopped) {
      ptrace(PTRACE_DETACH, tracee.thread, nullptr, static_cast<uintptr_t>(tracee.signal));
    }
  }
  return stacks;
}

bool Matters(pid_t process, const ThreadStack& stack) {
  if (stack.thread == process || stack.state == "D") return true;
  const auto ours = std::find_if(stack.frames.begin(), stack.frames.end(), IsOurs);
  if (ours == stack.frames.end() || absl::StartsWith(*ours, kReporter)) return false;
  // Such a thread has nothing to do.
  return ours == stack.frames.begin() || !absl::StrContains(*std::prev(ours), kWaitsForWork);
}

}  // namespace

std::string StateOf(pid_t process) { return StateIn(absl::StrCat("/proc/", process, "/stat")); }

absl::StatusOr<std::vector<ThreadStack>> ReadStacks(pid_t process, const StackOptions& options) {
  absl::StatusOr<std::vector<ThreadStack>> stacks;
  // A tracer is a thread, and its end lets go of whatever it still holds.
  std::thread tracer([&] { stacks = Read(process, options); });
  tracer.join();
  return stacks;
}

std::string DescribeStacks(pid_t process, const std::vector<ThreadStack>& stacks) {
  struct Alike {
    std::vector<const ThreadStack*> threads;
    std::string text;
  };
  std::vector<Alike> groups;
  for (const ThreadStack& stack : stacks) {
    if (!Matters(process, stack)) continue;
    std::string text;
    if (!stack.error.empty()) text = absl::StrCat("  (", stack.error, ")\n");
    for (size_t i = 0; i < stack.frames.size(); ++i) {
      absl::StrAppend(&text, "  #", i, " ", stack.frames[i], "\n");
    }
    const auto same = std::find_if(groups.begin(), groups.end(),
                                   [&](const Alike& group) { return group.text == text; });
    Alike& group = same != groups.end() ? *same : groups.emplace_back();
    group.threads.push_back(&stack);
    group.text = std::move(text);
  }
  std::string all;
  for (const Alike& group : groups) {
    if (all.size() + group.text.size() > kMostTextBytes) {
      absl::StrAppend(&all, "(more threads)\n");
      break;
    }
    absl::StrAppend(&all, group.threads.size() == 1 ? "thread " : "threads ",
                    absl::StrJoin(group.threads, ", ",
                                  [](std::string* out, const ThreadStack* stack) {
                                    absl::StrAppend(out, stack->thread);
                                  }),
                    " (", group.threads.front()->name, ", state ", group.threads.front()->state,
                    ")\n", group.text);
  }
  return all;
}

}  // namespace muster::worker
