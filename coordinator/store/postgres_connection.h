#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

struct pg_conn;
struct pg_result;

namespace muster::coordinator {

// A value for $1, $2, ... of a statement, in PostgreSQL's binary format.
struct PostgresValue {
  unsigned int type = 0;
  std::string bytes;
};
PostgresValue PostgresText(absl::string_view value);
PostgresValue PostgresBigint(int64_t value);
PostgresValue PostgresTextArray(const std::vector<std::string>& values);
PostgresValue PostgresBytesArray(const std::vector<std::string>& values);
PostgresValue PostgresBigintArray(const std::vector<int64_t>& values);

// Rows of one statement. A column must be of the type that it is read as.
class PostgresRows {
 public:
  explicit PostgresRows(pg_result* result) : result_(result) {}
  int count() const;
  // Of an UPDATE, INSERT or DELETE.
  int64_t affected() const;
  std::string Bytes(int row, int column) const;  // text or bytea
  int64_t Bigint(int row, int column) const;     // bigint, not null
  bool Boolean(int row, int column) const;       // boolean, not null

 private:
  struct Clear {
    void operator()(pg_result* result) const;
  };
  std::unique_ptr<pg_result, Clear> result_;
};

// One connection over libpq, made again when it is lost. One caller at a time.
//
// Errors: Unavailable when the server cannot be reached, restarts, or asks for another try;
// FailedPrecondition when it refuses this user or database; ResourceExhausted when its disk is
// full; Internal otherwise. No message holds a password.
class PostgresConnection {
 public:
  struct Options {
    // postgresql://USER@HOST:PORT/DATABASE?...; passwords better come from a .pgpass file.
    std::string url;
    // What pg_stat_activity shows.
    std::string application = "muster-coordinator";
    // The server ends a statement, and a transaction whose client has gone quiet, after so long.
    absl::Duration statement_timeout = absl::Seconds(30);
    absl::Duration idle_in_transaction_timeout = absl::Seconds(3);
  };

  // Connects at the first statement. InvalidArgument for a URL that cannot be read.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Create(const Options& options);
  ~PostgresConnection();
  PostgresConnection(const PostgresConnection&) = delete;
  PostgresConnection& operator=(const PostgresConnection&) = delete;

  absl::StatusOr<PostgresRows> Run(const char* sql, const std::vector<PostgresValue>& values = {});
  // Several statements without values in one.
  absl::Status RunScript(const std::string& sql);
  // BEGIN, `body`, COMMIT; ROLLBACK when `body`, which must end at its first error, or anything
  // else fails. After an error of the COMMIT itself it is not known whether it took place.
  absl::Status Transaction(const char* begin, absl::FunctionRef<absl::Status()> body);

  // "postgresql://host:port/database", for messages.
  const std::string& name() const { return name_; }

 private:
  PostgresConnection(Options options, std::string name)
      : options_(std::move(options)), name_(std::move(name)) {}
  absl::Status Connect();
  absl::Status Error(const pg_result* result) const;

  const Options options_;
  const std::string name_;
  pg_conn* connection_ = nullptr;
  bool in_transaction_ = false;
};

// Whether a --store names PostgreSQL.
bool IsPostgresUrl(absl::string_view store);

}  // namespace muster::coordinator
