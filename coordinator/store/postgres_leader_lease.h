#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "coordinator/store/leader_lease.h"
#include "coordinator/store/postgres_connection.h"

namespace muster::coordinator {

// The lease as one row of PostgreSQL, which expires by the database's clock. It also brings the
// schema up to date, which only the leader may do. SetAddress and Check are thread-safe; the rest
// has one caller at a time.
class PostgresLeaderLease : public LeaderLease {
 public:
  struct Options {
    std::string url;
    // Who this is, for people: for example "host-a pid 4711".
    std::string holder;
    absl::Duration duration = absl::Seconds(3);
  };

  // InvalidArgument for a URL that cannot be read; connects later. `clock` must live longer.
  static absl::StatusOr<std::unique_ptr<PostgresLeaderLease>> Create(const Options& options,
                                                                     const base::Clock& clock);

  // FailedPrecondition when the database has a newer schema than this program knows, or refuses
  // this user.
  absl::StatusOr<std::optional<Leader>> TryAcquire() override;
  absl::Status Renew() override;
  absl::Status Release() override;
  void SetAddress(const std::string& address) override;
  absl::Status Check() const override;

  // Of this process's newest lease.
  int64_t term() const;
  const std::string& store_name() const { return connection_->name(); }

 private:
  PostgresLeaderLease(const Options& options, const base::Clock& clock,
                      std::unique_ptr<PostgresConnection> connection)
      : options_(options), clock_(clock), connection_(std::move(connection)) {}
  absl::Status Lost() const;

  const Options options_;
  const base::Clock& clock_;
  const std::unique_ptr<PostgresConnection> connection_;
  bool prepared_ = false;
  mutable absl::Mutex mutex_;
  std::string address_ ABSL_GUARDED_BY(mutex_);
  int64_t term_ ABSL_GUARDED_BY(mutex_) = 0;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  // Of clock_.Monotonic(): counted from before the request, so never later than the database's.
  absl::Duration valid_until_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace muster::coordinator
