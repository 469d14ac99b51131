#include "coordinator/service/leader_keeper.h"

#include <utility>

#include "common/base/log.h"

namespace muster::coordinator {

LeaderKeeper::LeaderKeeper(const Options& options, LeaderLease* lease, std::function<void()> lost)
    : options_(options), lease_(lease), lost_(std::move(lost)), thread_([this] { Run(); }) {}

LeaderKeeper::~LeaderKeeper() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
  const absl::Status released = lease_->Release();
  if (!released.ok()) {
    base::Log(base::LogSeverity::kWarning, "coordinator",
              "the leader's lease could not be given back; it runs out by itself",
              {{"error", std::string(released.message())}});
  }
}

void LeaderKeeper::Announce(const std::string& address) {
  lease_->SetAddress(address);
  absl::MutexLock lock(&mutex_);
  renew_now_ = true;
}

void LeaderKeeper::Run() {
  absl::Duration wait = options_.interval;
  bool failing = false;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(
          absl::Condition(
              +[](LeaderKeeper* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                return self->stopping_ || self->renew_now_;
              },
              this),
          wait);
      if (stopping_) return;
      renew_now_ = false;
    }
    const absl::Status renewed = lease_->Renew();
    if (absl::IsAborted(renewed)) {
      base::Log(base::LogSeverity::kError, "coordinator", "another coordinator leads now",
                {{"error", std::string(renewed.message())}});
      lost_();
      return;
    }
    wait = renewed.ok() ? options_.interval : options_.retry;
    if (!renewed.ok() && !failing) {
      base::Log(base::LogSeverity::kWarning, "coordinator",
                "the leader's lease cannot be renewed; trying again",
                {{"error", std::string(renewed.message())}});
    }
    failing = !renewed.ok();
  }
}

}  // namespace muster::coordinator
