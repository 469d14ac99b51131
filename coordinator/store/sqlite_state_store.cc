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
    // Records of thousands of bytes: without a rowid each would lie in pages of its own.
    R"sql(
      CREATE TABLE new_jobs (name TEXT NOT NULL UNIQUE, record BLOB NOT NULL);
      INSERT INTO new_jobs SELECT name, record FROM jobs;
      DROP TABLE jobs;
      ALTER TABLE new_jobs RENAME TO jobs;
      CREATE TABLE new_requests (id TEXT NOT NULL UNIQUE, record BLOB NOT NULL);
      INSERT INTO new_requests SELECT id, record FROM requests;
      DROP TABLE requests;
      ALTER TABLE new_requests RENAME TO requests;
      UPDATE schema_version SET version = 3;
    )sql",
};
// Of a subject, events are trimmed after so many new ones.
constexpr int kUntrimmedEvents = 50;

constexpr int64_t kSchemaVersion = std::size(kMigrations);

}  // namespace

class SqliteStateStore::Statement {
 public:
  Statement(sqlite3* database, const char* sql) {
    result_ =
        sqlite3_prepare_v3(database, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // Values must stay until Execute or the last Step.
  void BindText(int index, const std::string& value) {
    Note(sqlite3_bind_text(statement_, index, value.data(), static_cast<int>(value.size()),
                           SQLITE_STATIC));
  }
  void BindBlob(int index, const std::string& value) {
    // A record that equals the default serializes to nothing, and a null pointer would bind NULL.
    Note(sqlite3_bind_blob(statement_, index, value.empty() ? "" : value.data(),
                           static_cast<int>(value.size()), SQLITE_STATIC));
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
  // Runs one that gives no rows, so that it can be run again. After a failure call TakeOk before
  // anything else: the database tells only its newest error.
  bool Execute() {
    Step();
    Note(sqlite3_reset(statement_));
    return ok();
  }
  bool ok() const { return result_ == SQLITE_OK; }
  // False when something has failed since the last call.
  bool TakeOk() { return std::exchange(result_, SQLITE_OK) == SQLITE_OK; }
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

SqliteStateStore::SqliteStateStore(const std::filesystem::path& path, sqlite3* database)
    : path_(path), database_(database) {}

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

SqliteStateStore::~SqliteStateStore() {
  statements_.clear();
  sqlite3_close(database_);
}

SqliteStateStore::Statement& SqliteStateStore::Prepared(const char* sql) {
  std::unique_ptr<Statement>& statement = statements_[sql];
  if (statement == nullptr) statement = std::make_unique<Statement>(database_, sql);
  return *statement;
}

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
  // Pages (16 MiB): a job that changes again soon is then copied from the log to the file once.
  MUSTER_RETURN_IF_ERROR(Execute("PRAGMA wal_autocheckpoint = 4000"));
  // KiB: a job is found by its name, which may lie on any page.
  MUSTER_RETURN_IF_ERROR(Execute("PRAGMA cache_size = -65536"));
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
  for (const std::string& name : writes.expired_jobs) untrimmed_.erase(name);
  MUSTER_RETURN_IF_ERROR(RemoveAll("DELETE FROM requests WHERE id = ?", writes.expired_requests));
  MUSTER_RETURN_IF_ERROR(RemoveAll("DELETE FROM tokens WHERE id = ?", writes.expired_tokens));
  MUSTER_RETURN_IF_ERROR(
      PutAll("INSERT INTO jobs VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
             writes.jobs));
  MUSTER_RETURN_IF_ERROR(
      PutAll("INSERT INTO nodes VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
             writes.nodes));
  MUSTER_RETURN_IF_ERROR(PutAll(
      "INSERT INTO requests VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
      writes.requests));
  MUSTER_RETURN_IF_ERROR(
      PutAll("INSERT INTO tokens VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
             writes.tokens));
  return PutEvents(writes.events);
}

template <typename Records>
absl::Status SqliteStateStore::PutAll(const char* sql, const Records& records) {
  if (records.empty()) return absl::OkStatus();
  Statement& put = Prepared(sql);
  std::string bytes;
  for (const auto& [key, record] : records) {
    record.SerializeToString(&bytes);
    put.BindText(1, key);
    put.BindBlob(2, bytes);
    if (!put.Execute()) break;
  }
  return put.TakeOk() ? absl::OkStatus() : Error(sql);
}

absl::Status SqliteStateStore::RemoveAll(const char* sql, const std::set<std::string>& keys) {
  if (keys.empty()) return absl::OkStatus();
  Statement& remove = Prepared(sql);
  for (const std::string& key : keys) {
    remove.BindText(1, key);
    if (!remove.Execute()) break;
  }
  return remove.TakeOk() ? absl::OkStatus() : Error(sql);
}

absl::Status SqliteStateStore::PutEvents(const std::vector<v1::JobEvent>& events) {
  if (events.empty()) return absl::OkStatus();
  std::set<std::string> to_trim;
  Statement& put = Prepared("INSERT OR REPLACE INTO events VALUES (?, ?, ?)");
  std::string bytes;
  for (const v1::JobEvent& event : events) {
    const std::string& subject = EventSubject(event);
    int& untrimmed = untrimmed_[subject];
    if (++untrimmed == kUntrimmedEvents) {
      untrimmed = 0;
      to_trim.insert(subject);
    }
    event.SerializeToString(&bytes);
    put.BindInt(1, event.sequence());
    put.BindText(2, subject);
    put.BindBlob(3, bytes);
    if (!put.Execute()) break;
  }
  if (!put.TakeOk()) return Error("events cannot be written");
  if (to_trim.empty()) return absl::OkStatus();
  Statement& trim = Prepared(
      "DELETE FROM events WHERE subject = ?1 AND sequence <= (SELECT sequence FROM "
      "events WHERE subject = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)");
  for (const std::string& subject : to_trim) {
    trim.BindText(1, subject);
    trim.BindInt(2, kKeptEventsPerSubject);
    if (!trim.Execute()) break;
  }
  return trim.TakeOk() ? absl::OkStatus() : Error("events cannot be trimmed");
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
