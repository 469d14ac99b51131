#pragma once

#include "absl/status/status.h"

#include "coordinator/store/postgres_connection.h"

namespace muster::coordinator {

// Everything of ours lies in the schema "muster" of the database, which is made where it is missing
// together with the row that the leader's lease is kept in.
absl::Status PreparePostgresLeadership(PostgresConnection* connection);

// Brings the tables up to this program's version, in the caller's transaction. FailedPrecondition
// for a database with a newer one.
absl::Status MigratePostgres(PostgresConnection* connection);

}  // namespace muster::coordinator
