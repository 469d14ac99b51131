#include "tests/support/postgres.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"

namespace muster::testing {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

// Debian keeps the server's programs out of PATH, a folder for each version.
std::filesystem::path Programs() {
  std::filesystem::path newest;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", missing)) {
    const std::filesystem::path programs = entry.path() / "bin";
    if (std::filesystem::exists(programs / "initdb") && programs > newest) newest = programs;
  }
  return newest;
}

// `arguments`, run as a user that PostgreSQL accepts and ended with this process.
std::vector<std::string> AsPostgres(const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"setpriv", "--pdeathsig", "QUIT"};
  if (geteuid() == 0) {
    all.insert(all.end(), {"--reuid", "postgres", "--regid", "postgres", "--clear-groups"});
  }
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    int process = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &process)) continue;
    // "PID (NAME) STATE PPID ..."
    const std::string stat = base::ReadFile(entry.path() / "stat").value_or("");
    const size_t name_end = stat.rfind(") ");
    if (name_end == std::string::npos) continue;
    const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
    if (fields.size() > 1 && fields[1] == absl::StrCat(parent)) children.push_back(process);
  }
  return children;
}

}  // namespace

bool Postgres::Installed() {
  return !Programs().empty() && (geteuid() != 0 || getpwnam("postgres") != nullptr);
}

Postgres::Postgres() {
  std::string pattern = (std::filesystem::temp_directory_path() / "muster-pg-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
  folder_ = pattern;
  if (geteuid() == 0) {
    const passwd* user = getpwnam("postgres");
    if (chown(folder_.c_str(), user->pw_uid, user->pw_gid) != 0) ADD_FAILURE() << "chown failed";
  }
  const Finished made =
      Run(AsPostgres({(Programs() / "initdb").string(), "--no-sync", "--auth=trust",
                      "--username=muster", "--encoding=UTF8", "--no-locale", "--no-instructions",
                      "-D", (folder_ / "data").string()}),
          kPatience);
  if (made.exit_code != 0) ADD_FAILURE() << "initdb: " << made.output;
  Start();
}

Postgres::~Postgres() {
  Kill();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void Postgres::Start() {
  Process::Options options;
  options.arguments =
      AsPostgres({(Programs() / "postgres").string(), "-D", (folder_ / "data").string(), "-k",
                  folder_.string(), "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c",
                  "fsync=off", "-c", "max_connections=50"});
  options.output = folder_ / "log";
  // Processes of a killed server may still be on their way out, and then it ends at once.
  const bool ready = WaitUntil(
      [&] {
        if (server_ == nullptr || server_->Wait(absl::ZeroDuration()).has_value()) {
          server_ = std::make_unique<Process>(options);
        }
        return Run({(Programs() / "pg_isready").string(), "-q", "-h", folder_.string()}, kPatience)
                   .exit_code == 0;
      },
      kPatience);
  if (!ready) ADD_FAILURE() << "PostgreSQL does not start: " << server_->Output();
}

void Postgres::Kill() {
  if (server_ == nullptr) return;
  const std::vector<pid_t> children = ChildrenOf(server_->pid());
  server_->Signal(SIGKILL);
  server_.reset();
  // One that serves a connection answers a little longer than the server lives.
  for (const pid_t child : children) kill(child, SIGKILL);
  const bool gone = WaitUntil(
      [&] {
        return std::none_of(children.begin(), children.end(),
                            [](pid_t child) { return kill(child, 0) == 0; });
      },
      kPatience);
  if (!gone) ADD_FAILURE() << "PostgreSQL's processes do not end";
}

std::string Postgres::NewDatabase() {
  const std::string url =
      absl::StrCat("postgresql:///t", ++databases_, "?user=muster&host=", folder_.string());
  Query(absl::StrCat("postgresql:///postgres?user=muster&host=", folder_.string()),
        absl::StrCat("CREATE DATABASE t", databases_));
  return url;
}

std::string Postgres::Through(const std::string& url, const std::filesystem::path& folder) {
  return absl::StrCat(url.substr(0, url.find("&host=")), "&host=", folder.string());
}

std::string Postgres::Query(const std::string& url, const std::string& sql) const {
  const Finished finished = Run({(Programs() / "psql").string(), "-X", "-A", "-t", "-q", "-v",
                                 "ON_ERROR_STOP=1", "-c", sql, url},
                                kPatience);
  if (finished.exit_code != 0) ADD_FAILURE() << sql << ": " << finished.output;
  return std::string(absl::StripAsciiWhitespace(finished.output));
}

}  // namespace muster::testing
