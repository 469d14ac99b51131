#include "tests/support/host_cluster.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace muster::testing {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::string Coordinator() { return NetworkNamespaces::Address(0) + ":7070"; }

// A token, alone on a line.
std::string Token(const Finished& made) {
  if (made.exit_code != 0) throw std::runtime_error("no token: " + made.output);
  return std::string(absl::StripAsciiWhitespace(made.output));
}

}  // namespace

HostCluster::HostCluster(int hosts) : network_(hosts) {
  const std::string store = folder() / "store.sqlite";
  const std::filesystem::path addresses = folder() / "addresses";
  CertificateAuthority::Request request;
  request.name = "coordinator";
  request.alternative_names = {"IP:" + NetworkNamespaces::Address(0), "IP:127.0.0.1"};
  const security::TlsFiles tls = authority_.Issue(request);
  admin_ = Token(Run(
      {ProgramFolder() / "muster-coordinator", "create-token", "--store", store, "--user", "root"},
      kPatience));
  coordinator_ = Start(0,
                       {"muster-coordinator", "--listen", Coordinator(), "--http", "127.0.0.1:0",
                        "--store", store, "--address-file", addresses, "--heartbeat-interval",
                        "250ms", "--tls-cert", tls.certificate, "--tls-key", tls.key},
                       {});
  if (!WaitUntil([&] { return std::filesystem::exists(addresses); }, kPatience)) {
    throw std::runtime_error("the coordinator did not start: " + coordinator_->Output());
  }
}

HostCluster::~HostCluster() {
  workers_.clear();
  KillProcessesWith(folder().string() + "/");
}

void HostCluster::StartWorker(int host, const std::vector<std::string>& arguments) {
  const std::string name = absl::StrCat("w", host);
  const std::string join = Token(Muster({"node-token", "create", "--node", name}));
  std::vector<std::string> all = {"muster-worker", "--coordinator",  Coordinator(), "--name", name,
                                  "--state-dir",   StateFolder(host)};
  all.insert(all.end(), arguments.begin(), arguments.end());
  workers_[host] = Start(host, std::move(all),
                         {absl::StrCat("MUSTER_TLS_CA=", authority_.ca().string()),
                          absl::StrCat("MUSTER_JOIN_TOKEN=", join)});
  const bool joined = WaitUntil(
      [&] { return Muster({"nodes"}).output.find(name) != std::string::npos; }, kPatience);
  if (!joined) throw std::runtime_error(name + " did not join: " + workers_[host]->Output());
}

void HostCluster::KillWorkerAndTrainers(int host) {
  workers_.at(host)->Signal(SIGKILL);
  workers_.at(host)->Wait(absl::Seconds(10));
  EXPECT_TRUE(KillProcessesWith(StateFolder(host).string() + "/"));
}

std::vector<std::filesystem::path> HostCluster::StateFolders() const {
  std::vector<std::filesystem::path> folders;
  for (const auto& [host, worker] : workers_) folders.push_back(StateFolder(host));
  return folders;
}

Finished HostCluster::Muster(std::vector<std::string> arguments, absl::Duration timeout) const {
  arguments.insert(arguments.begin(), ProgramFolder() / "muster");
  return Run(network_.On(0, arguments), timeout, MusterEnvironment());
}

std::vector<std::string> HostCluster::MusterEnvironment() const {
  return {absl::StrCat("MUSTER_COORDINATOR=", Coordinator()), absl::StrCat("MUSTER_TOKEN=", admin_),
          absl::StrCat("MUSTER_TLS_CA=", authority_.ca().string())};
}

nlohmann::json HostCluster::Job(const std::string& name) const {
  return nlohmann::json::parse(Muster({"describe", name, "--json"}).output);
}

nlohmann::json HostCluster::WaitForJob(const std::string& name,
                                       const std::function<bool(const nlohmann::json&)>& done,
                                       absl::Duration timeout) const {
  const TemporaryFolder output;
  Process watch({network_.On(0, {ProgramFolder() / "muster", "watch", name, "--json"}),
                 MusterEnvironment(), output.path() / "changes"});
  nlohmann::json job;
  std::streamoff read = 0;
  WaitUntil(
      [&] {
        const bool over = watch.Wait(absl::ZeroDuration()).has_value();
        std::ifstream changes(output.path() / "changes");
        changes.seekg(read);
        // A line a change; what is not whole yet is left for the next look.
        for (std::string line; std::getline(changes, line) && !changes.eof();) {
          read = changes.tellg();
          if (line.empty() || line.front() != '{') continue;
          job = nlohmann::json::parse(line)["job"];
          if (done(job)) return true;
        }
        return over;
      },
      timeout);
  return job;
}

void HostCluster::Nft(int host, const std::string& commands) const {
  const Finished set = Run(network_.On(host, {"nft", commands}), kPatience);
  ASSERT_EQ(set.exit_code, 0) << set.output;
}

std::unique_ptr<Process> HostCluster::Start(int host, std::vector<std::string> arguments,
                                            const std::vector<std::string>& environment) const {
  const std::filesystem::path log = folder() / absl::StrCat(arguments[0], host, ".log");
  arguments[0] = ProgramFolder() / arguments[0];
  return std::make_unique<Process>(
      Process::Options{network_.On(host, arguments), environment, log});
}

std::filesystem::path HostCluster::StateFolder(int host) const {
  return folder() / absl::StrCat("w", host);
}

}  // namespace muster::testing
