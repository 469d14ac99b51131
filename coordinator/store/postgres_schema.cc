#include "coordinator/store/postgres_schema.h"

#include <iterator>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace muster::coordinator {
namespace {

// The i-th brings a database from version i to i + 1. What has been released never changes.
constexpr const char* kMigrations[] = {
    R"sql(
      CREATE TABLE muster.jobs (name text PRIMARY KEY, record bytea NOT NULL);
      CREATE TABLE muster.nodes (name text PRIMARY KEY, record bytea NOT NULL);
      CREATE TABLE muster.requests (id text PRIMARY KEY, record bytea NOT NULL);
      CREATE TABLE muster.tokens (id text PRIMARY KEY, record bytea NOT NULL);
      CREATE TABLE muster.events (
        sequence bigint PRIMARY KEY, subject text NOT NULL, record bytea NOT NULL);
      CREATE INDEX events_by_subject ON muster.events (subject, sequence);
    )sql",
};
constexpr int64_t kVersion = std::size(kMigrations);

}  // namespace

absl::Status PreparePostgresLeadership(PostgresConnection* connection) {
  return connection->Transaction("BEGIN", [&]() -> absl::Status {
    // IF NOT EXISTS alone fails for one of two that come at the same moment.
    MUSTER_RETURN_IF_ERROR(
        connection->RunScript("SELECT pg_advisory_xact_lock(hashtext('muster schema'))"));
    // Whoever may use the schema need not be allowed to make one.
    MUSTER_ASSIGN_OR_RETURN(
        const PostgresRows found,
        connection->Run("SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = 'muster' AND "
                        "tablename = 'leader'"));
    if (found.count() > 0) return absl::OkStatus();
    return connection->RunScript(R"sql(
      CREATE SCHEMA IF NOT EXISTS muster;
      CREATE TABLE muster.schema_version (version bigint NOT NULL);
      INSERT INTO muster.schema_version VALUES (0);
      CREATE TABLE muster.leader (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        holder text NOT NULL, address text NOT NULL, term bigint NOT NULL,
        expires_at timestamptz NOT NULL);
      INSERT INTO muster.leader VALUES (true, '', '', 0, '-infinity');
    )sql");
  });
}

absl::Status MigratePostgres(PostgresConnection* connection) {
  MUSTER_ASSIGN_OR_RETURN(const PostgresRows rows,
                          connection->Run("SELECT version FROM muster.schema_version"));
  const int64_t version = rows.count() == 1 ? rows.Bigint(0, 0) : -1;
  if (version < 0 || version > kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("store ", connection->name(), " has schema version ", version,
                     "; this program knows up to ", kVersion, ": install a newer release"));
  }
  if (version == kVersion) return absl::OkStatus();
  // However many rows there are.
  MUSTER_RETURN_IF_ERROR(connection->RunScript("SET LOCAL statement_timeout = 0"));
  for (int64_t next = version; next < kVersion; ++next) {
    MUSTER_RETURN_IF_ERROR(connection->RunScript(kMigrations[next]));
  }
  return connection
      ->Run("UPDATE muster.schema_version SET version = $1", {PostgresBigint(kVersion)})
      .status();
}

}  // namespace muster::coordinator
