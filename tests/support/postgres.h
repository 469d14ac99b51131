#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "tests/support/process.h"

namespace muster::testing {

// A PostgreSQL server of a test's own: a new cluster in a temporary folder, on a unix socket there,
// ended and removed with the object (and with the process, however it ends). As root it runs as the
// user postgres, since it refuses to run as root.
class Postgres {
 public:
  // PostgreSQL's programs are there; without them skip the test.
  static bool Installed();

  // Fails the test when the server does not start.
  Postgres();
  ~Postgres();
  Postgres(const Postgres&) = delete;
  Postgres& operator=(const Postgres&) = delete;

  // A new empty database, as "postgresql://...".
  std::string NewDatabase();
  // The socket of the server, as NewDatabase's URLs name it by its folder.
  std::filesystem::path socket() const { return folder_ / kSocketName; }
  // The URL of the same database by way of another socket in `folder`, called kSocketName.
  static std::string Through(const std::string& url, const std::filesystem::path& folder);
  // One statement by psql, as the superuser; its output without decoration.
  std::string Query(const std::string& url, const std::string& sql) const;

  // SIGKILL to the server and its processes; they are gone when it returns.
  void Kill();
  void Start();

  static constexpr char kSocketName[] = ".s.PGSQL.5432";

 private:
  std::filesystem::path folder_;
  std::unique_ptr<Process> server_;
  int databases_ = 0;
};

}  // namespace muster::testing
