// A real Prometheus that knows nothing but the coordinator's discovery address finds a real job's
// metrics.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "tests/support/local_cluster.h"
#include <nlohmann/json.hpp>

namespace muster {
namespace {

using testing::Finished;
using testing::LocalCluster;

// A port that was free a moment ago: Prometheus cannot take port 0 and tell which one it got.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd, generic, size) != 0 || getsockname(fd, generic, &size) != 0)
    ADD_FAILURE() << "no free port";
  close(fd);
  return ntohs(address.sin_port);
}

class PrometheusClient {
 public:
  explicit PrometheusClient(int port) : client_("127.0.0.1", port) {}

  bool Ready() {
    const auto response = client_.Get("/-/ready");
    return response && response->status == 200;
  }
  nlohmann::json Query(const std::string& expression) {
    const auto response =
        client_.Get("/api/v1/query", httplib::Params{{"query", expression}}, httplib::Headers{});
    if (!response || response->status != 200) return nlohmann::json::array();
    return nlohmann::json::parse(response->body)["data"]["result"];
  }

 private:
  httplib::Client client_;
};

TEST(PrometheusTest, FindsEveryMetricOfAJobThroughDiscovery) {
  if (testing::Run({"prometheus", "--version"}, absl::Seconds(10)).exit_code != 0) {
    GTEST_SKIP() << "prometheus is not installed; scripts/setup installs it";
  }
  testing::TemporaryFolder data;
  const Finished made =
      testing::Run({testing::ProgramFolder() / "muster-trainer", "make-shapes", "--output",
                    data.path() / "shapes", "--train", "24", "--val", "6", "--seed", "3"},
                   absl::Minutes(1));
  ASSERT_EQ(made.exit_code, 0) << made.output;
  LocalCluster::Options options;
  options.data_root = data.path();
  LocalCluster cluster(options);
  ASSERT_TRUE(cluster.WaitForNodes(2, absl::Seconds(30)));

  const std::filesystem::path config = cluster.folder() / "prometheus.yml";
  std::ofstream(config) << "global: {scrape_interval: 1s}\n"
                        << "scrape_configs:\n"
                        << "  - job_name: muster\n"
                        << "    http_sd_configs:\n"
                        << "      - url: http://" << cluster.http_address() << "/v1/sd/prometheus\n"
                        << "        refresh_interval: 1s\n";
  const int port = FreePort();
  testing::Process prometheus({{"prometheus", "--config.file=" + config.string(),
                                "--storage.tsdb.path=" + (cluster.folder() / "tsdb").string(),
                                absl::StrCat("--web.listen-address=127.0.0.1:", port)},
                               {},
                               cluster.folder() / "prometheus.log"});
  PrometheusClient client(port);
  ASSERT_TRUE(testing::WaitUntil([&] { return client.Ready(); }, absl::Seconds(60)))
      << prometheus.Output();

  const Finished submitted =
      cluster.Muster({"submit", testing::SourceFolder() / "configs/quick/demo.textproto", "--set",
                      "schedule.epochs=2", "--set", "schedule.step_epochs=[]", "--set",
                      "evaluation.every_epochs=1"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  const std::string name(absl::StripAsciiWhitespace(submitted.output));
  const v1::Job job = cluster.WaitForJob(
      name, [](const v1::Job&) { return false; }, absl::Minutes(5));
  ASSERT_EQ(job.state(), v1::Job::STATE_SUCCEEDED) << job.DebugString();

  const std::string of_job = "{muster_job=\"" + name + "\"}";
  const auto value = [&](const std::string& expression) -> std::string {
    std::string found;
    testing::WaitUntil(
        [&] {
          const nlohmann::json result = client.Query(expression);
          if (result.empty()) return false;
          found = result[0]["value"][1].get<std::string>();
          return true;
        },
        absl::Seconds(15));
    return found;
  };
  for (const char* component : {"loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"}) {
    EXPECT_NE(value(absl::StrCat("muster_train_loss{muster_job=\"", name, "\",component=\"",
                                 component, "\"}")),
              "")
        << component;
  }
  // 24 images an epoch, over both ranks. The last report may come after a scrape, so ask until it
  // is there.
  const std::string images = "sum(muster_train_images_total" + of_job + ")";
  EXPECT_TRUE(testing::WaitUntil([&] { return value(images) == "48"; }, absl::Seconds(20)))
      << value(images);
  EXPECT_NE(value("sum(muster_train_step_duration_seconds_count" + of_job + ")"), "");
  EXPECT_NE(value("muster_train_learning_rate" + of_job), "");
  EXPECT_NE(value("muster_train_grad_norm" + of_job), "");
  EXPECT_TRUE(testing::WaitUntil([&] { return value("muster_train_epoch" + of_job) == "2"; },
                                 absl::Seconds(20)));
  const v1::EvalResult& last = job.evaluations(job.evaluations_size() - 1);
  const std::string map = "muster_eval_map_ratio{muster_job=\"" + name + "\",iou=\"0.50:0.95\"}";
  EXPECT_TRUE(testing::WaitUntil(
      [&] { return std::abs(std::strtod(value(map).c_str(), nullptr) - last.ap()) < 1e-9; },
      absl::Seconds(20)))
      << value(map) << " against " << last.ap();
  // The coordinator and two workers. A target's first scrape comes anywhere within its interval.
  const std::string up = "count(up == 1)";
  EXPECT_TRUE(testing::WaitUntil([&] { return value(up) == "3"; }, absl::Seconds(20))) << value(up);
}

}  // namespace
}  // namespace muster
