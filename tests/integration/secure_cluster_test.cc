// The programs as people set them up with TLS and tokens: docs/operations/security.md.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/stat.h>

#include <memory>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "common/security/secret_file.h"
#include "nlohmann/json.hpp"
#include "tests/support/certificate_authority.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"

namespace muster::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kPatience = absl::Seconds(30);

class SecureClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // OpenSSL writes to connections that a server has closed.
    signal(SIGPIPE, SIG_IGN);
    std::filesystem::create_directories(folder_.path() / "data");
    admin_ = std::string(
        absl::StripAsciiWhitespace(testing::Run({Program("muster-coordinator"), "create-token",
                                                 "--store", Store(), "--user", "root"},
                                                kPatience)
                                       .output));
    ASSERT_THAT(admin_, ::testing::MatchesRegex("muster-[0-9a-f]+"));
  }

  static std::string Program(const std::string& name) { return (ProgramFolder() / name).string(); }
  std::string Store() const { return (folder_.path() / "store.db").string(); }
  std::filesystem::path StateFolder(const std::string& node) const {
    return folder_.path() / ("state-" + node);
  }

  void StartCoordinator() {
    const std::filesystem::path addresses = folder_.path() / "addresses";
    std::filesystem::remove(addresses);
    const security::TlsFiles tls = authority_.Issue("coordinator");
    Process::Options options;
    options.arguments = {Program("muster-coordinator"),
                         "--listen",
                         grpc_address_,
                         "--http",
                         "127.0.0.1:0",
                         "--store",
                         Store(),
                         "--address-file",
                         addresses,
                         "--tls-cert",
                         tls.certificate,
                         "--tls-key",
                         tls.key,
                         "--tls-client-ca",
                         tls.ca};
    options.output = folder_.path() / "coordinator.log";
    coordinator_ = std::make_unique<Process>(options);
    ASSERT_TRUE(WaitUntil([&] { return std::filesystem::exists(addresses); }, kPatience))
        << coordinator_->Output();
    const std::vector<std::string> lines =
        absl::StrSplit(base::ReadFile(addresses).value_or(""), '\n');
    grpc_address_ = lines[0];
    http_address_ = lines[1];
  }

  std::unique_ptr<Process> StartWorker(const std::string& node, const std::string& join_token,
                                       const std::string& metrics = "127.0.0.1:0") {
    Process::Options options;
    options.arguments = {Program("muster-worker"),
                         "--coordinator",
                         grpc_address_,
                         "--name",
                         node,
                         "--state-dir",
                         StateFolder(node),
                         "--data-root",
                         folder_.path() / "data",
                         "--metrics",
                         metrics};
    options.environment = Tls("worker");
    if (!join_token.empty()) options.environment.push_back("MUSTER_JOIN_TOKEN=" + join_token);
    options.output = folder_.path() / absl::StrCat(node, "-", ++starts_, ".log");
    return std::make_unique<Process>(options);
  }

  std::vector<std::string> Tls(const std::string& name) const {
    const security::TlsFiles tls = authority_.Issue(name);
    return {"MUSTER_TLS_CA=" + tls.ca.string(), "MUSTER_TLS_CERT=" + tls.certificate.string(),
            "MUSTER_TLS_KEY=" + tls.key.string(),
            "XDG_CONFIG_HOME=" + (folder_.path() / "config").string()};
  }
  Finished Muster(const std::string& token, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), Program("muster"));
    std::vector<std::string> environment = Tls("user");
    environment.push_back("MUSTER_COORDINATOR=" + grpc_address_);
    if (!token.empty()) environment.push_back("MUSTER_TOKEN=" + token);
    return testing::Run(arguments, kPatience, environment);
  }
  std::string MakeToken(std::vector<std::string> arguments) const {
    const Finished finished = Muster(admin_, std::move(arguments));
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    return std::string(absl::StripAsciiWhitespace(finished.output));
  }
  bool SeesNode(const std::string& node) const {
    return WaitUntil(
        [&] { return Muster(admin_, {"nodes"}).output.find(node + " ") != std::string::npos; },
        kPatience);
  }
  static int ExitCode(Process* process) {
    const std::optional<int> status = process->Wait(kPatience);
    return status.has_value() && WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
  }

  TemporaryFolder folder_;
  CertificateAuthority authority_{folder_.path() / "ca"};
  std::string admin_;
  std::string grpc_address_ = "127.0.0.1:0";
  std::string http_address_;
  std::unique_ptr<Process> coordinator_;
  int starts_ = 0;
};

TEST_F(SecureClusterTest, FromTheFirstTokenToARevokedNode) {
  StartCoordinator();
  // People.
  const Finished nobody = Muster("", {"list"});
  EXPECT_EQ(nobody.exit_code, base::kExitUsage);
  EXPECT_THAT(nobody.output, HasSubstr("MUSTER_TOKEN"));
  const std::string viewer = MakeToken({"token", "create", "--user", "vera", "--role", "view"});
  EXPECT_EQ(Muster(viewer, {"list"}).exit_code, 0);
  const Finished cancelled = Muster(viewer, {"cancel", "jobs/none"});
  EXPECT_EQ(cancelled.exit_code, base::kExitUsage);
  EXPECT_THAT(cancelled.output, HasSubstr("needs the role submit"));
  EXPECT_THAT(Muster(viewer, {"token", "create", "--user", "vera", "--role", "admin"}).output,
              HasSubstr("needs the role admin"));
  // From the file in the home folder, for its owner's eyes only.
  const std::filesystem::path file = folder_.path() / "config" / "muster" / "token";
  std::filesystem::create_directories(file.parent_path());
  ASSERT_TRUE(security::WriteSecretFile(file, viewer).ok());
  EXPECT_EQ(Muster("", {"list"}).exit_code, 0);
  chmod(file.c_str(), 0644);
  EXPECT_THAT(Muster("", {"list"}).output, HasSubstr("chmod 600"));

  // Nodes.
  auto uninvited = StartWorker("w0", "");
  EXPECT_EQ(ExitCode(uninvited.get()), base::kExitUnavailable);
  EXPECT_THAT(uninvited->Output(), HasSubstr("muster node-token create"));
  const std::string join = MakeToken({"node-token", "create"});
  auto worker = StartWorker("w1", join);
  ASSERT_TRUE(SeesNode("w1")) << worker->Output();
  struct stat info {};
  ASSERT_EQ(stat((StateFolder("w1") / "node_token").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const std::string node_secret = *security::ReadSecretFile(StateFolder("w1") / "node_token");
  auto second = StartWorker("w2", join);
  EXPECT_EQ(ExitCode(second.get()), base::kExitUnavailable);
  EXPECT_THAT(second->Output(), HasSubstr("this join token was used"));

  // The node comes back without a join token, also to a coordinator that was killed.
  worker->Signal(SIGTERM);
  EXPECT_EQ(ExitCode(worker.get()), base::kExitCompleted);
  coordinator_->Signal(SIGKILL);
  coordinator_->Wait(kPatience);
  StartCoordinator();
  worker = StartWorker("w1", "");
  ASSERT_TRUE(WaitUntil(
      [&] { return worker->Output().find("joined the coordinator") != std::string::npos; },
      kPatience))
      << worker->Output();

  const Finished tokens = Muster(admin_, {"token", "list"});
  EXPECT_THAT(tokens.output, ::testing::ContainsRegex("node +w1 +good"));
  EXPECT_THAT(tokens.output, ::testing::ContainsRegex("join +- +used"));
  EXPECT_THAT(tokens.output, ::testing::ContainsRegex("view +vera +good"));
  for (const absl::string_view line : absl::StrSplit(tokens.output, '\n')) {
    if (line.find(" node ") == absl::string_view::npos) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    EXPECT_EQ(Muster(admin_, {"token", "revoke", words[0]}).exit_code, 0);
  }
  ASSERT_TRUE(
      WaitUntil([&] { return worker->Output().find("not in force any more") != std::string::npos; },
                kPatience))
      << worker->Output();

  // No secret is in any log.
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    if (entry.path().extension() != ".log") continue;
    const std::string text = *base::ReadFile(entry.path());
    for (const std::string& secret : {admin_, viewer, join, node_secret}) {
      EXPECT_THAT(text, Not(HasSubstr(secret.substr(7)))) << entry.path();
    }
  }
}

TEST_F(SecureClusterTest, WorkersMetricsBeyondLoopbackAskForACertificate) {
  StartCoordinator();
  const auto worker = StartWorker("w1", MakeToken({"node-token", "create"}), "0.0.0.0:0");
  ASSERT_TRUE(SeesNode("w1")) << worker->Output();
  const auto node = nlohmann::json::parse(Muster(admin_, {"nodes", "--json"}).output);
  const std::string address = node["inventory"]["metricsAddress"];
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  const auto get = [&](const security::TlsFiles& tls) {
    httplib::SSLClient client("127.0.0.1", port, tls.certificate.string(), tls.key.string());
    client.set_ca_cert_path(tls.ca.c_str());
    const auto result = client.Get("/metrics");
    return result && result->status == 200 ? result->body : "";
  };
  EXPECT_THAT(get(authority_.Issue("prometheus")), HasSubstr("muster_build_info"));
  EXPECT_EQ(get({"", "", authority_.ca()}), "");
  EXPECT_FALSE(httplib::Client("127.0.0.1", port).Get("/metrics"));
}

TEST_F(SecureClusterTest, CertificatesAreRenewedWithoutARestart) {
  StartCoordinator();
  ASSERT_EQ(Muster(admin_, {"list"}).exit_code, 0);
  // The same files with a certificate that has just run out: nobody believes it any more.
  CertificateAuthority::Request request;
  request.name = "coordinator";
  request.ends = -absl::Minutes(1);
  authority_.Issue(request);
  const auto works = [&] { return Muster(admin_, {"list"}).exit_code == 0; };
  EXPECT_TRUE(WaitUntil([&] { return !works(); }, kPatience));
  authority_.Issue("coordinator");
  EXPECT_TRUE(WaitUntil(works, kPatience));
}

TEST_F(SecureClusterTest, TheProgramsSayWhatIsMissing) {
  const security::TlsFiles tls = authority_.Issue("coordinator");
  const auto coordinator = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), Program("muster-coordinator"));
    if (!absl::c_linear_search(arguments, "--store")) {
      arguments.insert(arguments.end(), {"--store", Store()});
    }
    const Finished finished = testing::Run(arguments, kPatience);
    EXPECT_EQ(finished.exit_code, base::kExitUsage) << finished.output;
    return finished.output;
  };
  EXPECT_EQ(coordinator({"--listen", "0.0.0.0:0"}),
            "muster-coordinator: --listen 0.0.0.0:0 is not a loopback address and needs TLS: "
            "--tls-cert and --tls-key\n");
  EXPECT_THAT(coordinator({"--http", "0.0.0.0:0"}), HasSubstr("--tls-cert"));
  // Also where another coordinator may lead: the store is not asked first.
  EXPECT_THAT(coordinator({"--store", "postgresql://nobody@192.0.2.1/none", "--http", "0.0.0.0:0"}),
              HasSubstr("--tls-cert"));
  EXPECT_THAT(coordinator({"--tls-cert", tls.certificate}), HasSubstr("together"));
  EXPECT_THAT(coordinator({"--tls-client-ca", tls.ca}), HasSubstr("need --tls-cert"));
  EXPECT_THAT(coordinator({"--tls-cert", tls.certificate, "--tls-key", folder_.path() / "none"}),
              HasSubstr("none"));

  const Finished cli =
      testing::Run({Program("muster"), "--coordinator", "192.0.2.1:7070", "list"}, kPatience);
  EXPECT_EQ(cli.exit_code, base::kExitUsage);
  EXPECT_THAT(cli.output, HasSubstr("in plaintext"));

  const auto worker = [&](std::vector<std::string> arguments,
                          const std::vector<std::string>& environment) {
    arguments.insert(arguments.begin(),
                     {Program("muster-worker"), "--name", "w1", "--state-dir", StateFolder("w1"),
                      "--data-root", folder_.path() / "data"});
    if (!absl::c_linear_search(arguments, "--coordinator")) {
      arguments.insert(arguments.end(), {"--coordinator", "127.0.0.1:1"});
    }
    const Finished finished = testing::Run(arguments, kPatience, environment);
    EXPECT_EQ(finished.exit_code, base::kExitUsage) << finished.output;
    return finished.output;
  };
  EXPECT_THAT(worker({"--metrics", "0.0.0.0:0"}, {}), HasSubstr("refusing to serve plaintext"));
  EXPECT_THAT(worker({}, {"MUSTER_JOIN_TOKEN=muster-12"}), HasSubstr("--tls-ca"));
  EXPECT_THAT(worker({"--coordinator", "192.0.2.1:7070"}, {}),
              ::testing::MatchesRegex("muster-worker: --coordinator 192.0.2.1:7070 is not a "
                                      "loopback address .*--tls-ca.\n"));
}

}  // namespace
}  // namespace muster::testing
