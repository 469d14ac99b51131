#include "coordinator/store/sqlite_state_store.h"

#include <sqlite3.h>

#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::coordinator {
namespace {

// The i-th brings a file from version i to i + 1. What has been released never changes.
constexpr const char* kMigrations[] = {
    R"sql(
      CREATE TABLE schema_version (version INTEGER NOT NULL);
      CREATE TABLE jobs (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
      CREATE TABLE nodes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
      CREATE TABLE requests (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
      CREATE TABLE events (
        sequence INTEGER PRIMARY KEY, job TEXT NOT NULL, record BLOB NOT NULL);
      CREATE INDEX events_by_job ON events (job, sequence);
      INSERT INTO schema_version VALUES (1);
    )sql",
    // Events of nodes; tokens.
    R"sql(
      ALTER TABLE events RENAME COLUMN job TO subject;
      DROP INDEX events_by_job;
      CREATE INDEX events_by_subject ON events (subject, sequence);
      CREATE TABLE tokens (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
      UPDATE schema_version SET version = 2;
    )sql",
};
constexpr int64_t kSchemaVersion = std::size(kMigrations);

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
  MUSTER_ASSIGN_OR_RETURN(const int64_t version, SchemaVersion());
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("store ", path_.string(), " has schema version ", version,
                     "; this program knows up to ", kSchemaVersion, ": install a newer release"));
  }
  for (int64_t next = version; next < kSchemaVersion; ++next) {
    if (sqlite3_exec(database_, kMigrations[next], nullptr, nullptr, nullptr) != SQLITE_OK) {
      return Error(absl::StrCat("cannot be brought to schema version ", next + 1).c_str());
    }
  }
  return Execute("COMMIT");
}

absl::StatusOr<int64_t> SqliteStateStore::SchemaVersion() {
  Statement find(database_, "SELECT 1 FROM sqlite_master WHERE name = 'schema_version'");
  const bool found = find.Step();
  if (!find.ok()) return Error("cannot be read");
  if (!found) return 0;
  Statement read(database_, "SELECT version FROM schema_version");
  const int64_t version = read.Step() ? read.Int(0) : 0;
  if (!read.ok()) return Error("cannot be read");
  return version;
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
  MUSTER_RETURN_IF_ERROR(RemoveAll("DELETE FROM jobs WHERE name = ?", writes.expired_jobs));
  MUSTER_RETURN_IF_ERROR(RemoveAll("DELETE FROM events WHERE subject = ?", writes.expired_jobs));
  MUSTER_RETURN_IF_ERROR(RemoveAll("DELETE FROM requests WHERE id = ?", writes.expired_requests));
  if (!writes.jobs.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO jobs VALUES (?, ?)");
    if (!PutAll(&put, writes.jobs)) return Error("jobs cannot be written");
  }
  if (!writes.nodes.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO nodes VALUES (?, ?)");
    if (!PutAll(&put, writes.nodes)) return Error("nodes cannot be written");
  }
  if (!writes.requests.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO requests VALUES (?, ?)");
    if (!PutAll(&put, writes.requests)) return Error("requests cannot be written");
  }
  if (!writes.tokens.empty()) {
    Statement put(database_, "INSERT OR REPLACE INTO tokens VALUES (?, ?)");
    if (!PutAll(&put, writes.tokens)) return Error("tokens cannot be written");
  }
  return PutEvents(writes.events);
}

absl::Status SqliteStateStore::RemoveAll(const char* sql, const std::set<std::string>& keys) {
  if (keys.empty()) return absl::OkStatus();
  Statement remove(database_, sql);
  for (const std::string& key : keys) {
    remove.BindText(1, key);
    remove.Step();
    remove.Reset();
  }
  return remove.ok() ? absl::OkStatus() : Error(sql);
}

absl::Status SqliteStateStore::PutEvents(const std::vector<v1::JobEvent>& events) {
  if (events.empty()) return absl::OkStatus();
  std::set<std::string> subjects;
  Statement put(database_, "INSERT OR REPLACE INTO events VALUES (?, ?, ?)");
  for (const v1::JobEvent& event : events) {
    subjects.insert(EventSubject(event));
    put.BindInt(1, event.sequence());
    put.BindText(2, EventSubject(event));
    put.BindBlob(3, event.SerializeAsString());
    put.Step();
    put.Reset();
  }
  if (!put.ok()) return Error("events cannot be written");
  Statement trim(database_,
                 "DELETE FROM events WHERE subject = ?1 AND sequence <= (SELECT sequence FROM "
                 "events WHERE subject = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)");
  for (const std::string& subject : subjects) {
    trim.BindText(1, subject);
    trim.BindInt(2, kKeptEventsPerSubject);
    trim.Step();
    trim.Reset();
  }
  return trim.ok() ? absl::OkStatus() : Error("events cannot be trimmed");
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
  MUSTER_RETURN_IF_ERROR(read_all("SELECT record FROM tokens", &snapshot.tokens));
  MUSTER_RETURN_IF_ERROR(read_all("SELECT record FROM events ORDER BY sequence", &snapshot.events));
  return snapshot;
}

}  // namespace muster::coordinator
