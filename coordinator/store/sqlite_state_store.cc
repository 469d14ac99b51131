#include "coordinator/store/sqlite_state_store.h"

#include <sqlite3.h>

#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::coordinator {
namespace {

constexpr int kSchemaVersion = 1;
// Of one job; ClusterState shows no more either.
constexpr int kKeptEventsPerJob = 500;

constexpr char kSchema[] = R"sql(
  CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS jobs (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS nodes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, job TEXT NOT NULL, record BLOB NOT NULL);
  CREATE INDEX IF NOT EXISTS events_by_job ON events (job, sequence);
)sql";

class Statement {
 public:
  Statement(sqlite3* database, const char* sql) {
    result_ = sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  void BindText(int index, const std::string& value) {
    Note(sqlite3_bind_text(statement_, index, value.data(), static_cast<int>(value.size()),
                           SQLITE_TRANSIENT));
  }
  void BindBlob(int index, const std::string& value) {
    // A record that equals the default serializes to nothing, and a null pointer would bind NULL.
    Note(sqlite3_bind_blob(statement_, index, value.empty() ? "" : value.data(),
                           static_cast<int>(value.size()), SQLITE_TRANSIENT));
  }
  void BindInt(int index, int64_t value) { Note(sqlite3_bind_int64(statement_, index, value)); }
  // True while there is a row.
  bool Step() {
    if (result_ != SQLITE_OK) return false;
    const int result = sqlite3_step(statement_);
    if (result == SQLITE_ROW) return true;
    if (result != SQLITE_DONE) result_ = result;
    return false;
  }
  void Reset() { Note(sqlite3_reset(statement_)); }
  bool ok() const { return result_ == SQLITE_OK; }
  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string Blob(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
  }

 private:
  void Note(int result) {
    if (result_ == SQLITE_OK) result_ = result;
  }
  sqlite3_stmt* statement_ = nullptr;
  int result_ = SQLITE_OK;
};

template <typename Records>
bool PutAll(Statement* statement, const Records& records) {
  for (const auto& [key, record] : records) {
    statement->BindText(1, key);
    statement->BindBlob(2, record.SerializeAsString());
    statement->Step();
    statement->Reset();
  }
  return statement->ok();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStateStore>> SqliteStateStore::Open(
    const std::filesystem::path& path) {
  if (path.has_parent_path()) MUSTER_RETURN_IF_ERROR(base::CreateFolders(path.parent_path()));
  sqlite3* database = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  std::unique_ptr<SqliteStateStore> store(new SqliteStateStore(path, database));
  if (result != SQLITE_OK) return store->Error("cannot be opened");
  MUSTER_RETURN_IF_ERROR(store->Initialize());
  return store;
}

SqliteStateStore::~SqliteStateStore() { sqlite3_close(database_); }

absl::Status SqliteStateStore::Error(const char* what) const {
  const int code = sqlite3_errcode(database_) & 0xff;
  std::string message =
      absl::StrCat("store ", path_.string(), ": ", what, ": ", sqlite3_errmsg(database_));
  if (code == SQLITE_BUSY) {
    return absl::FailedPreconditionError(
        absl::StrCat("store ", path_.string(),
                     " is in use by another coordinator; stop it or choose another --store"));
  }
  if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) {
    return absl::FailedPreconditionError(message);
  }
  if (code == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

absl::Status SqliteStateStore::Execute(const char* sql) {
  if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return Error(sql);
  return absl::OkStatus();
}

absl::Status SqliteStateStore::Initialize() {
  // A coordinator that was killed a moment ago may not have gone yet.
  sqlite3_busy_timeout(database_, 2000);
  MUSTER_RETURN_IF_ERROR(Execute("PRAGMA locking_mode = EXCLUSIVE"));
  MUSTER_RETURN_IF_ERROR(Execute("PRAGMA journal_mode = WAL"));
  MUSTER_RETURN_IF_ERROR(Execute("PRAGMA synchronous = FULL"));
  // Takes the file's lock, which is kept from here on.
  MUSTER_RETURN_IF_ERROR(Execute("BEGIN EXCLUSIVE"));
  MUSTER_RETURN_IF_ERROR(Execute(kSchema));
  int64_t version = 0;
  {
    Statement read(database_, "SELECT version FROM schema_version");
    if (read.Step()) version = read.Int(0);
    if (!read.ok()) return Error("cannot be read");
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("store ", path_.string(), " has schema version ", version,
                     "; this program knows up to ", kSchemaVersion, ": install a newer release"));
  }
  if (version == 0) {
    Statement write(database_, "INSERT INTO schema_version VALUES (?)");
    write.BindInt(1, kSchemaVersion);
    write.Step();
    if (!write.ok()) return Error("cannot be written");
  }
  return Execute("COMMIT");
}

absl::Status SqliteStateStore::Commit(const Writes& writes) {
  if (writes.empty()) return absl::OkStatus();
  MUSTER_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = CommitOpen(writes);
  if (status.ok()) status = Execute("COMMIT");
  // After some errors SQLite has rolled back by itself.
  if (!status.ok() && sqlite3_get_autocommit(database_) == 0) Execute("ROLLBACK").IgnoreError();
  return status;
}

absl::Status SqliteStateStore::CommitOpen(const Writes& writes) {
  if (!writes.jobs.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO jobs VALUES (?, ?)");
    if (!PutAll(&put, writes.jobs)) return Error("jobs cannot be written");
  }
  if (!writes.nodes.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO nodes VALUES (?, ?)");
    if (!PutAll(&put, writes.nodes)) return Error("nodes cannot be written");
  }
  for (const std::string& id : writes.expired_requests) {
    Statement remove(database_, "DELETE FROM requests WHERE id = ?");
    remove.BindText(1, id);
    remove.Step();
    if (!remove.ok()) return Error("requests cannot be removed");
  }
  if (!writes.requests.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO requests VALUES (?, ?)");
    if (!PutAll(&put, writes.requests)) return Error("requests cannot be written");
  }
  for (const v1::JobEvent& event : writes.events) {
    Statement put(database_, "INSERT OR REPLACE INTO events VALUES (?, ?, ?)");
    put.BindInt(1, event.sequence());
    put.BindText(2, event.job());
    put.BindBlob(3, event.SerializeAsString());
    put.Step();
    if (!put.ok()) return Error("events cannot be written");
    Statement trim(database_,
                   "DELETE FROM events WHERE job = ?1 AND sequence <= (SELECT sequence FROM events "
                   "WHERE job = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)");
    trim.BindText(1, event.job());
    trim.BindInt(2, kKeptEventsPerJob);
    trim.Step();
    if (!trim.ok()) return Error("events cannot be trimmed");
  }
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> SqliteStateStore::Load() {
  Snapshot snapshot;
  auto read_all = [&](const char* sql, auto* records) -> absl::Status {
    Statement read(database_, sql);
    while (read.Step()) {
      records->emplace_back();
      if (!records->back().ParseFromString(read.Blob(0))) {
        return absl::DataLossError(
            absl::StrCat("store ", path_.string(), ": a record of '", sql, "' is damaged"));
      }
    }
    return read.ok() ? absl::OkStatus() : Error("cannot be read");
  };
  MUSTER_RETURN_IF_ERROR(read_all("SELECT record FROM jobs", &snapshot.jobs));
  MUSTER_RETURN_IF_ERROR(read_all("SELECT record FROM nodes", &snapshot.nodes));
  MUSTER_RETURN_IF_ERROR(read_all("SELECT record FROM requests", &snapshot.requests));
  MUSTER_RETURN_IF_ERROR(read_all("SELECT record FROM events ORDER BY sequence", &snapshot.events));
  return snapshot;
}

}  // namespace muster::coordinator
