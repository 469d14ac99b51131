#include "coordinator/store/postgres_connection.h"

#include <libpq-fe.h>

#include <cstring>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/status_macros.h"

namespace muster::coordinator {
namespace {

// Of PostgreSQL's catalogue, where they never change.
constexpr Oid kBytea = 17;
constexpr Oid kBigint = 20;
constexpr Oid kText = 25;
constexpr Oid kByteaArray = 1001;
constexpr Oid kTextArray = 1009;
constexpr Oid kBigintArray = 1016;

constexpr int kBinary = 1;

void AppendBigEndian(uint64_t value, int bytes, std::string* to) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    to->push_back(static_cast<char>((value >> shift) & 0xff));
  }
}

// The binary format of a one-dimensional array without nulls.
PostgresValue Array(Oid type, Oid element_type, const std::vector<std::string>& elements) {
  PostgresValue array{type, ""};
  AppendBigEndian(elements.empty() ? 0 : 1, 4, &array.bytes);
  AppendBigEndian(0, 4, &array.bytes);
  AppendBigEndian(element_type, 4, &array.bytes);
  if (elements.empty()) return array;
  AppendBigEndian(elements.size(), 4, &array.bytes);
  AppendBigEndian(1, 4, &array.bytes);
  for (const std::string& element : elements) {
    AppendBigEndian(element.size(), 4, &array.bytes);
    array.bytes += element;
  }
  return array;
}

struct FreeInfo {
  void operator()(PQconninfoOption* info) const { PQconninfoFree(info); }
};
using ConnectionInfo = std::unique_ptr<PQconninfoOption, FreeInfo>;

std::string Option(const ConnectionInfo& info, absl::string_view keyword) {
  for (const PQconninfoOption* option = info.get(); option->keyword != nullptr; ++option) {
    if (keyword == option->keyword && option->val != nullptr) return option->val;
  }
  return "";
}

absl::StatusCode CodeOf(absl::string_view state) {
  // The connection; the server shuts down or starts; deadlock and serialization; timeouts.
  if (state.empty() || absl::StartsWith(state, "08") || absl::StartsWith(state, "57") ||
      absl::StartsWith(state, "40") || state == "25P03" || state == "55P03") {
    return absl::StatusCode::kUnavailable;
  }
  if (absl::StartsWith(state, "53")) return absl::StatusCode::kResourceExhausted;
  // Who may log in, which databases there are, permissions, a server that only reads.
  if (absl::StartsWith(state, "28") || absl::StartsWith(state, "3D") || state == "42501" ||
      state == "25006") {
    return absl::StatusCode::kFailedPrecondition;
  }
  return absl::StatusCode::kInternal;
}

// libpq's texts have several lines.
std::string OneLine(const char* text) {
  std::string line(text == nullptr ? "" : text);
  absl::RemoveExtraAsciiWhitespace(&line);
  for (char& c : line) {
    if (c == '\n') c = ' ';
  }
  return line;
}

}  // namespace

PostgresValue PostgresText(absl::string_view value) { return {kText, std::string(value)}; }

PostgresValue PostgresBigint(int64_t value) {
  PostgresValue result{kBigint, ""};
  AppendBigEndian(static_cast<uint64_t>(value), 8, &result.bytes);
  return result;
}

PostgresValue PostgresTextArray(const std::vector<std::string>& values) {
  return Array(kTextArray, kText, values);
}

PostgresValue PostgresBytesArray(const std::vector<std::string>& values) {
  return Array(kByteaArray, kBytea, values);
}

PostgresValue PostgresBigintArray(const std::vector<int64_t>& values) {
  std::vector<std::string> elements;
  elements.reserve(values.size());
  for (const int64_t value : values) elements.push_back(PostgresBigint(value).bytes);
  return Array(kBigintArray, kBigint, elements);
}

void PostgresRows::Clear::operator()(pg_result* result) const { PQclear(result); }

int PostgresRows::count() const { return PQntuples(result_.get()); }

int64_t PostgresRows::affected() const {
  return std::strtoll(PQcmdTuples(result_.get()), nullptr, 10);
}

std::string PostgresRows::Bytes(int row, int column) const {
  return std::string(PQgetvalue(result_.get(), row, column),
                     static_cast<size_t>(PQgetlength(result_.get(), row, column)));
}

int64_t PostgresRows::Bigint(int row, int column) const {
  const char* bytes = PQgetvalue(result_.get(), row, column);
  uint64_t value = 0;
  for (int i = 0; i < PQgetlength(result_.get(), row, column); ++i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return static_cast<int64_t>(value);
}

bool PostgresRows::Boolean(int row, int column) const {
  return *PQgetvalue(result_.get(), row, column) != 0;
}

bool IsPostgresUrl(absl::string_view store) {
  return absl::StartsWith(store, "postgresql://") || absl::StartsWith(store, "postgres://");
}

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Create(
    const Options& options) {
  // What libpq says of a bad URL may quote the password.
  char* reason = nullptr;
  const ConnectionInfo info(PQconninfoParse(options.url.c_str(), &reason));
  PQfreemem(reason);
  if (!IsPostgresUrl(options.url) || info == nullptr) {
    return absl::InvalidArgumentError(
        "the store's URL cannot be read; write postgresql://USER@HOST:PORT/DATABASE, other "
        "characters than letters, digits and -._ percent-encoded");
  }
  std::string name = absl::StrCat("postgresql://", Option(info, "host"));
  if (const std::string port = Option(info, "port"); !port.empty()) {
    absl::StrAppend(&name, ":", port);
  }
  absl::StrAppend(&name, "/", Option(info, "dbname"));
  return std::unique_ptr<PostgresConnection>(new PostgresConnection(options, std::move(name)));
}

PostgresConnection::~PostgresConnection() { PQfinish(connection_); }

absl::Status PostgresConnection::Error(const pg_result* result) const {
  const char* state = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* text =
      result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  const bool lost = PQstatus(connection_) != CONNECTION_OK;
  return absl::Status(lost || state == nullptr ? absl::StatusCode::kUnavailable : CodeOf(state),
                      absl::StrCat("store ", name_, ": ",
                                   OneLine(text == nullptr ? PQerrorMessage(connection_) : text)));
}

absl::Status PostgresConnection::Connect() {
  if (connection_ != nullptr && PQstatus(connection_) == CONNECTION_OK) return absl::OkStatus();
  // The rest of a transaction must not run by itself on a new connection.
  if (in_transaction_) return Error(nullptr);
  PQfinish(connection_);
  // Earlier ones give way to what the URL says.
  const char* keywords[] = {"connect_timeout",
                            "keepalives_idle",
                            "keepalives_interval",
                            "keepalives_count",
                            "tcp_user_timeout",
                            "fallback_application_name",
                            "dbname",
                            nullptr};
  const char* values[] = {
      "2", "2", "1", "3", "3000", options_.application.c_str(), options_.url.c_str(), nullptr};
  connection_ = PQconnectdbParams(keywords, values, /*expand_dbname=*/1);
  if (PQstatus(connection_) != CONNECTION_OK) {
    // A refused log-in has no result, and so no code of its own.
    const std::string text = OneLine(PQerrorMessage(connection_));
    const bool refused = absl::StrContains(text, "authentication") ||
                         absl::StrContains(text, "no password supplied") ||
                         absl::StrContains(text, "no pg_hba.conf entry") ||
                         absl::StrContains(text, "does not exist");
    return absl::Status(
        refused ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kUnavailable,
        absl::StrCat("store ", name_, ": ", text));
  }
  PQsetNoticeReceiver(
      connection_, [](void*, const PGresult*) {}, nullptr);
  return RunScript(absl::StrCat(
      "SET statement_timeout = ", absl::ToInt64Milliseconds(options_.statement_timeout),
      "; SET idle_in_transaction_session_timeout = ",
      absl::ToInt64Milliseconds(options_.idle_in_transaction_timeout),
      // Whatever the database's default is: a commit that has returned is on the disk.
      "; SELECT set_config('synchronous_commit', 'on', false) WHERE "
      "current_setting('synchronous_commit') = 'off'"));
}

absl::StatusOr<PostgresRows> PostgresConnection::Run(const char* sql,
                                                     const std::vector<PostgresValue>& values) {
  MUSTER_RETURN_IF_ERROR(Connect());
  std::vector<Oid> types;
  std::vector<const char*> bytes;
  std::vector<int> lengths;
  for (const PostgresValue& value : values) {
    types.push_back(value.type);
    bytes.push_back(value.bytes.data());
    lengths.push_back(static_cast<int>(value.bytes.size()));
  }
  const std::vector<int> formats(values.size(), kBinary);
  pg_result* result = PQexecParams(connection_, sql, static_cast<int>(values.size()), types.data(),
                                   bytes.data(), lengths.data(), formats.data(), kBinary);
  PostgresRows rows(result);
  const ExecStatusType status = PQresultStatus(result);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) return Error(result);
  return rows;
}

absl::Status PostgresConnection::RunScript(const std::string& sql) {
  MUSTER_RETURN_IF_ERROR(Connect());
  pg_result* result = PQexec(connection_, sql.c_str());
  const PostgresRows rows(result);
  const ExecStatusType status = PQresultStatus(result);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) return Error(result);
  return absl::OkStatus();
}

absl::Status PostgresConnection::Transaction(const char* begin,
                                             absl::FunctionRef<absl::Status()> body) {
  MUSTER_RETURN_IF_ERROR(RunScript(begin));
  in_transaction_ = true;
  absl::Status status = body();
  if (status.ok()) status = RunScript("COMMIT");
  in_transaction_ = false;
  // A lost connection has rolled back by itself.
  if (!status.ok() && PQstatus(connection_) == CONNECTION_OK &&
      PQtransactionStatus(connection_) != PQTRANS_IDLE) {
    RunScript("ROLLBACK").IgnoreError();
  }
  return status;
}

}  // namespace muster::coordinator
