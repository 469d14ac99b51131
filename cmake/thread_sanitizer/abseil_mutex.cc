// Linked into every program of the tsan preset. The distribution's Abseil is not built with
// ThreadSanitizer, which therefore does not know that absl::Mutex orders threads, and would call
// every use of it a race. The functions below take the place of Abseil's own (the programs link it
// as a shared library), tell ThreadSanitizer, and call them.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/base/options.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

// Abseil's inline namespace differs between distributions.
#define MUSTER_QUOTE(name) #name
#define MUSTER_QUOTED(name) MUSTER_QUOTE(name)

// The library's function of that name as it is mangled inside of its inline namespace.
template <typename Function>
Function Next(const char* mangled, const char* prefix = "_ZN4absl") {
  const std::string space = MUSTER_QUOTED(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string symbol = prefix + std::to_string(space.size()) + space + mangled;
  void* function = dlsym(RTLD_NEXT, symbol.c_str());
  if (function == nullptr) {
    std::fprintf(stderr, "thread_sanitizer: Abseil has no %s\n", symbol.c_str());
    std::abort();
  }
  return reinterpret_cast<Function>(function);
}

// A condition is evaluated by whichever thread holds the mutex, also inside of Abseil's Unlock.
class OrderedCondition {
 public:
  OrderedCondition(absl::Mutex* mutex, const absl::Condition& condition)
      : mutex_(mutex), condition_(condition) {}

  absl::Condition Get() const { return absl::Condition(this, &OrderedCondition::Eval); }

 private:
  bool Eval() const {
    __tsan_acquire(mutex_);
    const bool result = condition_.Eval();
    __tsan_release(mutex_);
    return result;
  }

  absl::Mutex* mutex_;
  const absl::Condition& condition_;
};

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto next = Next<void (*)(Mutex*)>("5Mutex4LockEv");
  next(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto next = Next<void (*)(Mutex*)>("5Mutex6UnlockEv");
  __tsan_release(this);
  next(this);
}

void Mutex::ReaderLock() {
  static const auto next = Next<void (*)(Mutex*)>("5Mutex10ReaderLockEv");
  next(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static const auto next = Next<void (*)(Mutex*)>("5Mutex12ReaderUnlockEv");
  __tsan_release(this);
  next(this);
}

void Mutex::Await(const Condition& condition) {
  static const auto next =
      Next<void (*)(Mutex*, const Condition&)>("5Mutex5AwaitERKNS0_9ConditionE");
  const OrderedCondition ordered(this, condition);
  __tsan_release(this);
  next(this, ordered.Get());
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static const auto next = Next<bool (*)(Mutex*, const Condition&, Duration)>(
      "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const OrderedCondition ordered(this, condition);
  __tsan_release(this);
  const bool result = next(this, ordered.Get(), timeout);
  __tsan_acquire(this);
  return result;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static const auto next = Next<bool (*)(Mutex*, const Condition&, Time)>(
      "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const OrderedCondition ordered(this, condition);
  __tsan_release(this);
  const bool result = next(this, ordered.Get(), deadline);
  __tsan_acquire(this);
  return result;
}

void CondVar::Wait(Mutex* mutex) {
  static const auto next = Next<void (*)(CondVar*, Mutex*)>("7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  next(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static const auto next = Next<bool (*)(CondVar*, Mutex*, Duration)>(
      "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool result = next(this, mutex, timeout);
  __tsan_acquire(mutex);
  return result;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static const auto next =
      Next<bool (*)(CondVar*, Mutex*, Time)>("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool result = next(this, mutex, deadline);
  __tsan_acquire(mutex);
  return result;
}

void Notification::Notify() {
  static const auto next = Next<void (*)(Notification*)>("12Notification6NotifyEv");
  __tsan_release(this);
  next(this);
}

void Notification::WaitForNotification() const {
  static const auto next =
      Next<void (*)(const Notification*)>("12Notification19WaitForNotificationEv", "_ZNK4absl");
  next(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static const auto next = Next<bool (*)(const Notification*, Duration)>(
      "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", "_ZNK4absl");
  const bool result = next(this, timeout);
  __tsan_acquire(const_cast<Notification*>(this));
  return result;
}

ABSL_NAMESPACE_END
}  // namespace absl
