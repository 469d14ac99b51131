#pragma once

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "coordinator/store/state_store.h"

namespace muster::testing {

// A store whose commits fail when the test says so. Commits without writes pass through, and count
// for nothing, unless the store is lost. Thread-safe where the inner store has one caller.
class FaultyStateStore : public coordinator::StateStore {
 public:
  enum class Fault {
    kBefore,  // the store does not answer; nothing is written
    kAfter,   // all is written, but the answer is lost
    kLost,    // another coordinator has taken the store: for ever
  };

  explicit FaultyStateStore(std::shared_ptr<coordinator::StateStore> inner)
      : inner_(std::move(inner)) {}

  // The next `count` commits with writes fail so.
  void Fail(Fault fault, int count) {
    absl::MutexLock lock(&mutex_);
    fault_ = fault;
    left_ = count;
    failures_ = 0;
  }
  // Waits until so many of them have.
  void AwaitFailures(int count) {
    absl::MutexLock lock(&mutex_);
    awaited_ = count;
    mutex_.Await(absl::Condition(
        +[](FaultyStateStore* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
          return self->failures_ >= self->awaited_;
        },
        this));
  }

  absl::Status Commit(const coordinator::Writes& writes) override {
    absl::MutexLock lock(&mutex_);
    if (lost_) return Lost();
    if (writes.empty() || left_ == 0) return inner_->Commit(writes);
    --left_;
    ++failures_;
    if (fault_ == Fault::kLost) {
      lost_ = true;
      return Lost();
    }
    if (fault_ == Fault::kAfter) {
      if (absl::Status status = inner_->Commit(writes); !status.ok()) return status;
    }
    return absl::UnavailableError("a fault of the test");
  }
  absl::StatusOr<coordinator::Snapshot> Load() override { return inner_->Load(); }

 private:
  static absl::Status Lost() { return absl::AbortedError("another coordinator leads"); }

  const std::shared_ptr<coordinator::StateStore> inner_;
  absl::Mutex mutex_;
  Fault fault_ ABSL_GUARDED_BY(mutex_) = Fault::kBefore;
  int left_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int awaited_ ABSL_GUARDED_BY(mutex_) = 0;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace muster::testing
