#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

#include "coordinator/store/postgres_connection.h"
#include "coordinator/store/postgres_leader_lease.h"
#include "coordinator/store/state_store.h"

namespace muster::coordinator {

// Records in PostgreSQL, for the coordinator that holds the lease. Each commit checks the lease's
// term in its transaction, so that of a coordinator that lost it nothing is stored any more.
class PostgresStateStore : public StateStore {
 public:
  // The lease is ours already, and lives longer. InvalidArgument for a URL that cannot be read.
  static absl::StatusOr<std::unique_ptr<PostgresStateStore>> Create(
      const std::string& url, const PostgresLeaderLease* lease);

  absl::Status Commit(const Writes& writes) override;
  absl::StatusOr<Snapshot> Load() override;

 private:
  PostgresStateStore(std::unique_ptr<PostgresConnection> connection,
                     const PostgresLeaderLease* lease)
      : connection_(std::move(connection)), lease_(lease) {}
  // In a transaction.
  absl::Status CheckTerm();
  absl::Status Remove(const Writes& writes);
  absl::Status Put(const Writes& writes);
  absl::Status PutEvents(const Writes& writes);
  template <typename Records>
  absl::Status Read(absl::string_view table, absl::string_view order, Records* records);

  const std::unique_ptr<PostgresConnection> connection_;
  const PostgresLeaderLease* const lease_;
};

}  // namespace muster::coordinator
