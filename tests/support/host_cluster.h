#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "tests/support/certificate_authority.h"
#include "tests/support/network_namespaces.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include <nlohmann/json.hpp>

namespace muster::testing {

// A coordinator on host 0 and workers on hosts of their own, as real processes with TLS and tokens,
// and heartbeats every 250 ms, so that a job's progress is soon seen.
// Everything, trainers included, is killed with the object. Throws std::runtime_error with the
// program's output when one does not start.
class HostCluster {
 public:
  explicit HostCluster(int hosts);
  ~HostCluster();

  // Worker w<host>, with `arguments` besides what every worker needs. Returns once it has joined.
  void StartWorker(int host, const std::vector<std::string>& arguments);
  // SIGKILL to the daemon, its shims and its trainers: what a power loss leaves.
  void KillWorkerAndTrainers(int host);

  const std::filesystem::path& folder() const { return folder_.path(); }
  const NetworkNamespaces& network() const { return network_; }
  // Of each worker that was started.
  std::vector<std::filesystem::path> StateFolders() const;

  // The admin's `muster ARGUMENTS...` on host 0.
  Finished Muster(std::vector<std::string> arguments,
                  absl::Duration timeout = absl::Minutes(1)) const;
  nlohmann::json Job(const std::string& name) const;
  // Watches the job until `done` holds or it has ended. The last job seen.
  nlohmann::json WaitForJob(const std::string& name,
                            const std::function<bool(const nlohmann::json&)>& done,
                            absl::Duration timeout = absl::Minutes(5)) const;
  // nft COMMANDS on the host; a failure is the test's.
  void Nft(int host, const std::string& commands) const;

 private:
  std::unique_ptr<Process> Start(int host, std::vector<std::string> arguments,
                                 const std::vector<std::string>& environment) const;
  std::filesystem::path StateFolder(int host) const;
  std::vector<std::string> MusterEnvironment() const;

  const TemporaryFolder folder_;
  const CertificateAuthority authority_{folder_.path() / "ca"};
  const NetworkNamespaces network_;
  std::string admin_;
  std::unique_ptr<Process> coordinator_;
  std::map<int, std::unique_ptr<Process>> workers_;
};

}  // namespace muster::testing
