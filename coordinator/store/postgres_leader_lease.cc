#include "coordinator/store/postgres_leader_lease.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "coordinator/store/postgres_schema.h"

namespace muster::coordinator {

absl::StatusOr<std::unique_ptr<PostgresLeaderLease>> PostgresLeaderLease::Create(
    const Options& options, const base::Clock& clock) {
  PostgresConnection::Options connection;
  connection.url = options.url;
  connection.statement_timeout = options.duration / 2;
  connection.idle_in_transaction_timeout = options.duration / 2;
  MUSTER_ASSIGN_OR_RETURN(std::unique_ptr<PostgresConnection> made,
                          PostgresConnection::Create(connection));
  return std::unique_ptr<PostgresLeaderLease>(
      new PostgresLeaderLease(options, clock, std::move(made)));
}

absl::StatusOr<std::optional<LeaderLease::Leader>> PostgresLeaderLease::TryAcquire() {
  if (!prepared_) {
    MUSTER_RETURN_IF_ERROR(PreparePostgresLeadership(connection_.get()));
    prepared_ = true;
  }
  // First without a lock, which would hold up the leader's commits.
  MUSTER_ASSIGN_OR_RETURN(
      const PostgresRows seen,
      connection_->Run("SELECT address, term, expires_at > clock_timestamp() FROM muster.leader"));
  if (seen.count() == 1 && seen.Boolean(0, 2)) {
    return std::optional<Leader>(Leader{seen.Bytes(0, 0), seen.Bigint(0, 1)});
  }
  std::optional<Leader> other;
  int64_t term = 0;
  const absl::Duration asked = clock_.Monotonic();
  const absl::Status status = connection_->Transaction("BEGIN", [&]() -> absl::Status {
    // A commit that holds its FOR KEY SHARE ends before this; one that comes later finds a new
    // term.
    MUSTER_ASSIGN_OR_RETURN(
        const PostgresRows now,
        connection_->Run("SELECT address, term, expires_at > clock_timestamp() FROM muster.leader "
                         "FOR UPDATE"));
    if (now.count() == 1 && now.Boolean(0, 2)) {
      other = Leader{now.Bytes(0, 0), now.Bigint(0, 1)};
      return absl::OkStatus();
    }
    MUSTER_RETURN_IF_ERROR(MigratePostgres(connection_.get()));
    MUSTER_ASSIGN_OR_RETURN(
        const PostgresRows taken,
        connection_->Run("UPDATE muster.leader SET holder = $1, address = '', term = term + 1, "
                         "expires_at = clock_timestamp() + $2 * interval '1 millisecond' "
                         "RETURNING term",
                         {PostgresText(options_.holder),
                          PostgresBigint(absl::ToInt64Milliseconds(options_.duration))}));
    term = taken.Bigint(0, 0);
    return absl::OkStatus();
  });
  MUSTER_RETURN_IF_ERROR(status);
  if (other.has_value()) return other;
  absl::MutexLock lock(&mutex_);
  address_.clear();
  term_ = term;
  lost_ = false;
  valid_until_ = asked + options_.duration;
  return std::optional<Leader>();
}

absl::Status PostgresLeaderLease::Renew() {
  std::string address;
  int64_t term = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (lost_) return Lost();
    address = address_;
    term = term_;
  }
  const absl::Duration asked = clock_.Monotonic();
  // Not FOR UPDATE's lock, so that it waits for no commit and no commit for it.
  MUSTER_ASSIGN_OR_RETURN(
      const PostgresRows renewed,
      connection_->Run("UPDATE muster.leader SET address = $2, "
                       "expires_at = clock_timestamp() + $3 * interval '1 millisecond' "
                       "WHERE term = $1",
                       {PostgresBigint(term), PostgresText(address),
                        PostgresBigint(absl::ToInt64Milliseconds(options_.duration))}));
  absl::MutexLock lock(&mutex_);
  if (renewed.affected() == 0) {
    lost_ = true;
    return Lost();
  }
  valid_until_ = asked + options_.duration;
  return absl::OkStatus();
}

absl::Status PostgresLeaderLease::Release() {
  int64_t term = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (lost_ || term_ == 0) return absl::OkStatus();
    lost_ = true;
    term = term_;
  }
  return connection_
      ->Run("UPDATE muster.leader SET address = '', expires_at = '-infinity' WHERE term = $1",
            {PostgresBigint(term)})
      .status();
}

void PostgresLeaderLease::SetAddress(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  address_ = address;
}

absl::Status PostgresLeaderLease::Lost() const {
  return absl::AbortedError(
      absl::StrCat("store ", connection_->name(), ": this coordinator does not lead any more"));
}

absl::Status PostgresLeaderLease::Check() const {
  absl::MutexLock lock(&mutex_);
  if (lost_) return Lost();
  if (clock_.Monotonic() < valid_until_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      "store ", connection_->name(), ": the leader's lease has run out and is not renewed yet"));
}

int64_t PostgresLeaderLease::term() const {
  absl::MutexLock lock(&mutex_);
  return term_;
}

}  // namespace muster::coordinator
