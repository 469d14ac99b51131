#include "coordinator/create_token.h"

#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "coordinator/service/access_service.h"
#include "coordinator/store/postgres_connection.h"
#include "coordinator/store/postgres_leader_lease.h"
#include "coordinator/store/postgres_state_store.h"
#include "coordinator/store/sqlite_state_store.h"

namespace muster::coordinator {

absl::StatusOr<std::string> CreateTokenInStore(const std::string& store, const v1::Token& wanted) {
  const base::SystemClock clock;
  if (!IsPostgresUrl(store)) {
    MUSTER_ASSIGN_OR_RETURN(
        const auto opened,
        SqliteStateStore::Open(std::string(absl::StripPrefix(store, "sqlite:"))));
    return CreateStoredToken(wanted, clock, opened.get());
  }
  PostgresLeaderLease::Options options;
  options.url = store;
  options.holder = "muster-coordinator create-token";
  MUSTER_ASSIGN_OR_RETURN(const auto lease, PostgresLeaderLease::Create(options, clock));
  MUSTER_ASSIGN_OR_RETURN(const std::optional<LeaderLease::Leader> leader, lease->TryAcquire());
  if (leader.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the coordinator at ", leader->address,
                     " leads; ask it (muster token create), or stop it for a moment"));
  }
  MUSTER_ASSIGN_OR_RETURN(const auto opened, PostgresStateStore::Create(store, lease.get()));
  absl::StatusOr<std::string> secret = CreateStoredToken(wanted, clock, opened.get());
  lease->Release().IgnoreError();
  return secret;
}

}  // namespace muster::coordinator
