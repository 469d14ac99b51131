#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "coordinator/store/state_store.h"

struct sqlite3;

namespace muster::coordinator {

// One SQLite file, write-ahead log, synchronous=FULL: a commit is on the disk when it returns. The
// file is locked while it is open, so a second coordinator over it fails with one clear error.
class SqliteStateStore : public StateStore {
 public:
  // Makes the file and its folder where they are missing. FailedPrecondition for a file that is
  // held by another process, is no database, or has a newer schema than this program knows.
  static absl::StatusOr<std::unique_ptr<SqliteStateStore>> Open(const std::filesystem::path& path);
  ~SqliteStateStore() override;
  SqliteStateStore(const SqliteStateStore&) = delete;
  SqliteStateStore& operator=(const SqliteStateStore&) = delete;

  absl::Status Commit(const Writes& writes) override;
  absl::StatusOr<Snapshot> Load() override;

 private:
  class Statement;
  SqliteStateStore(const std::filesystem::path& path, sqlite3* database);
  absl::Status Initialize();
  // 0: nothing is there yet.
  absl::StatusOr<int64_t> SchemaVersion();
  absl::Status CommitOpen(const Writes& writes);
  // By key, a later version over an earlier one.
  template <typename Records>
  absl::Status PutAll(const char* sql, const Records& records);
  absl::Status RemoveAll(const char* sql, const std::set<std::string>& keys);
  absl::Status PutEvents(const std::vector<v1::JobEvent>& events);
  absl::Status Execute(const char* sql);
  // Of a literal; prepared once.
  Statement& Prepared(const char* sql);
  absl::Status Error(const char* what) const;

  const std::filesystem::path path_;
  sqlite3* const database_;
  std::map<const char*, std::unique_ptr<Statement>> statements_;
  // Of each subject since its events were trimmed.
  std::unordered_map<std::string, int> untrimmed_;
};

}  // namespace muster::coordinator
