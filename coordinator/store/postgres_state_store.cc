#include "coordinator/store/postgres_state_store.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace muster::coordinator {
namespace {

constexpr int kRowsAtOnce = 1000;

std::vector<std::string> ToVector(const std::set<std::string>& set) {
  return {set.begin(), set.end()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<PostgresStateStore>> PostgresStateStore::Create(
    const std::string& url, const PostgresLeaderLease* lease) {
  PostgresConnection::Options options;
  options.url = url;
  MUSTER_ASSIGN_OR_RETURN(std::unique_ptr<PostgresConnection> connection,
                          PostgresConnection::Create(options));
  return std::unique_ptr<PostgresStateStore>(new PostgresStateStore(std::move(connection), lease));
}

absl::Status PostgresStateStore::Commit(const Writes& writes) {
  MUSTER_RETURN_IF_ERROR(lease_->Check());
  if (writes.empty()) return absl::OkStatus();
  const absl::Status status = connection_->Transaction("BEGIN", [&]() -> absl::Status {
    MUSTER_RETURN_IF_ERROR(CheckTerm());
    MUSTER_RETURN_IF_ERROR(Remove(writes));
    return Put(writes);
  });
  MUSTER_RETURN_IF_ERROR(status);
  // It may have taken so long that the caller must not act on it before the lease is renewed.
  return lease_->Check();
}

absl::Status PostgresStateStore::CheckTerm() {
  // Another coordinator that takes the lease waits for the end of this transaction.
  MUSTER_ASSIGN_OR_RETURN(
      const PostgresRows mine,
      connection_->Run("SELECT 1 FROM muster.leader WHERE term = $1 FOR KEY SHARE",
                       {PostgresBigint(lease_->term())}));
  if (mine.count() == 1) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("store ", connection_->name(), ": another coordinator leads now"));
}

absl::Status PostgresStateStore::Remove(const Writes& writes) {
  if (!writes.expired_requests.empty()) {
    MUSTER_RETURN_IF_ERROR(connection_
                               ->Run("DELETE FROM muster.requests WHERE id = ANY($1)",
                                     {PostgresTextArray(ToVector(writes.expired_requests))})
                               .status());
  }
  if (!writes.expired_tokens.empty()) {
    MUSTER_RETURN_IF_ERROR(connection_
                               ->Run("DELETE FROM muster.tokens WHERE id = ANY($1)",
                                     {PostgresTextArray(ToVector(writes.expired_tokens))})
                               .status());
  }
  if (writes.expired_jobs.empty()) return absl::OkStatus();
  const PostgresValue jobs = PostgresTextArray(ToVector(writes.expired_jobs));
  MUSTER_RETURN_IF_ERROR(
      connection_->Run("DELETE FROM muster.jobs WHERE name = ANY($1)", {jobs}).status());
  return connection_->Run("DELETE FROM muster.events WHERE subject = ANY($1)", {jobs}).status();
}

absl::Status PostgresStateStore::Put(const Writes& writes) {
  auto put = [&](const char* table, const char* key, const auto& records) -> absl::Status {
    if (records.empty()) return absl::OkStatus();
    std::vector<std::string> keys;
    std::vector<std::string> values;
    for (const auto& [name, record] : records) {
      keys.push_back(name);
      values.push_back(record.SerializeAsString());
    }
    return connection_
        ->Run(absl::StrCat("INSERT INTO muster.", table, " SELECT * FROM unnest($1, $2) ",
                           "ON CONFLICT (", key, ") DO UPDATE SET record = excluded.record")
                  .c_str(),
              {PostgresTextArray(keys), PostgresBytesArray(values)})
        .status();
  };
  MUSTER_RETURN_IF_ERROR(put("jobs", "name", writes.jobs));
  MUSTER_RETURN_IF_ERROR(put("nodes", "name", writes.nodes));
  MUSTER_RETURN_IF_ERROR(put("requests", "id", writes.requests));
  MUSTER_RETURN_IF_ERROR(put("tokens", "id", writes.tokens));
  return PutEvents(writes);
}

absl::Status PostgresStateStore::PutEvents(const Writes& writes) {
  if (writes.events.empty()) return absl::OkStatus();
  std::vector<int64_t> sequences;
  std::vector<std::string> subjects;
  std::vector<std::string> values;
  std::set<std::string> changed;
  for (const v1::JobEvent& event : writes.events) {
    sequences.push_back(event.sequence());
    subjects.push_back(EventSubject(event));
    values.push_back(event.SerializeAsString());
    changed.insert(subjects.back());
  }
  MUSTER_RETURN_IF_ERROR(connection_
                             ->Run("INSERT INTO muster.events SELECT * FROM unnest($1, $2, $3) "
                                   "ON CONFLICT (sequence) DO UPDATE SET record = excluded.record",
                                   {PostgresBigintArray(sequences), PostgresTextArray(subjects),
                                    PostgresBytesArray(values)})
                             .status());
  return connection_
      ->Run(
          "DELETE FROM muster.events USING (SELECT subject, (SELECT sequence FROM muster.events e "
          "WHERE e.subject = s.subject ORDER BY sequence DESC LIMIT 1 OFFSET $2) AS newest_gone "
          "FROM unnest($1) AS s(subject)) AS old WHERE events.subject = old.subject AND "
          "sequence <= old.newest_gone",
          {PostgresTextArray(ToVector(changed)), PostgresBigint(kKeptEventsPerSubject)})
      .status();
}

template <typename Records>
absl::Status PostgresStateStore::Read(absl::string_view table, absl::string_view order,
                                      Records* records) {
  MUSTER_RETURN_IF_ERROR(connection_->RunScript(
      absl::StrCat("DECLARE ", table, "_rows NO SCROLL CURSOR FOR SELECT record FROM muster.",
                   table, " ORDER BY ", order)));
  const std::string fetch = absl::StrCat("FETCH ", kRowsAtOnce, " FROM ", table, "_rows");
  while (true) {
    MUSTER_ASSIGN_OR_RETURN(const PostgresRows rows, connection_->Run(fetch.c_str()));
    if (rows.count() == 0) return absl::OkStatus();
    for (int i = 0; i < rows.count(); ++i) {
      records->emplace_back();
      if (!records->back().ParseFromString(rows.Bytes(i, 0))) {
        return absl::DataLossError(absl::StrCat("store ", connection_->name(),
                                                ": a record of muster.", table, " is damaged"));
      }
    }
  }
}

absl::StatusOr<Snapshot> PostgresStateStore::Load() {
  Snapshot snapshot;
  const absl::Status status = connection_->Transaction(
      "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", [&]() -> absl::Status {
        MUSTER_RETURN_IF_ERROR(Read("jobs", "name", &snapshot.jobs));
        MUSTER_RETURN_IF_ERROR(Read("nodes", "name", &snapshot.nodes));
        MUSTER_RETURN_IF_ERROR(Read("requests", "id", &snapshot.requests));
        MUSTER_RETURN_IF_ERROR(Read("tokens", "id", &snapshot.tokens));
        return Read("events", "sequence", &snapshot.events);
      });
  MUSTER_RETURN_IF_ERROR(status);
  return snapshot;
}

}  // namespace muster::coordinator
