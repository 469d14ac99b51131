// Two coordinator processes over one PostgreSQL: who leads, and what a kill -9, a sleep, a stop and
// a database that goes away leave behind.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/wait.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "tests/support/postgres.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/support/small_job.h"
#include "tests/support/worker_session.h"

namespace muster::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(30);

class Coordinator {
 public:
  Coordinator(const std::string& url, const std::filesystem::path& folder,
              const std::string& listen = "127.0.0.1:0")
      : addresses_(folder / "addresses"), output_(folder / "output") {
    std::filesystem::create_directories(folder);
    Process::Options options;
    options.arguments = {(ProgramFolder() / "muster-coordinator").string(),
                         "--listen",
                         listen,
                         "--http",
                         "127.0.0.1:0",
                         "--store",
                         url,
                         "--address-file",
                         addresses_.string()};
    options.output = output_;
    process_ = std::make_unique<Process>(options);
  }

  Process& process() { return *process_; }
  std::string Output() const { return process_->Output(); }

  // Since it started, or since ForgetAddresses.
  bool Leads() const { return std::filesystem::exists(addresses_); }
  bool WaitUntilItLeads() {
    return WaitUntil([&] { return Leads(); }, kPatience);
  }
  void ForgetAddresses() { std::filesystem::remove(addresses_); }
  bool WaitUntilItStandsBy(const std::string& after = "") {
    return WaitUntil([&] { return !StandbyAddress(after).empty(); }, kPatience);
  }
  // Of its HTTP server, once it has printed it behind `after`.
  std::string StandbyAddress(const std::string& after = "") const {
    constexpr char kStart[] = "standing by, ";
    const std::string output = Output();
    const size_t from = output.find(after);
    const size_t begin = from == std::string::npos ? from : output.find(kStart, from);
    const size_t end = begin == std::string::npos ? begin : output.find(" (HTTP)", begin);
    if (end == std::string::npos) return "";
    return output.substr(begin + sizeof(kStart) - 1, end - begin - (sizeof(kStart) - 1));
  }

  std::string grpc_address() const { return Address(0); }
  std::string http_address() const { return Address(1); }
  std::shared_ptr<grpc::Channel> Channel() const {
    return grpc::CreateChannel(grpc_address(), grpc::InsecureChannelCredentials());
  }

 private:
  std::string Address(size_t line) const {
    const std::vector<std::string> lines =
        absl::StrSplit(base::ReadFile(addresses_).value_or(""), '\n');
    return line < lines.size() ? lines[line] : "";
  }

  const std::filesystem::path addresses_;
  const std::filesystem::path output_;
  std::unique_ptr<Process> process_;
};

grpc::Status Create(const std::shared_ptr<grpc::Channel>& channel, const std::string& id) {
  grpc::ClientContext context;
  v1::Job job;
  return v1::JobService::NewStub(channel)->CreateJob(
      &context, SmallJobRequest(id, absl::StrCat("request-", id)), &job);
}

std::vector<std::string> Jobs(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  v1::ListJobsResponse response;
  const grpc::Status status =
      v1::JobService::NewStub(channel)->ListJobs(&context, v1::ListJobsRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::vector<std::string> names;
  for (const v1::Job& job : response.jobs()) names.push_back(job.name());
  return names;
}

std::string HttpGet(const std::string& address, const std::string& path, int status = 200) {
  httplib::Client client("http://" + address);
  const auto result = client.Get(path.c_str());
  EXPECT_TRUE(result) << address << path;
  if (!result) return "";
  EXPECT_EQ(result->status, status) << path;
  return result->body;
}

class LeaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Postgres::Installed()) GTEST_SKIP() << "PostgreSQL is not installed";
    postgres_ = std::make_unique<Postgres>();
    url_ = postgres_->NewDatabase();
    first_ = Start();
    ASSERT_TRUE(first_->WaitUntilItLeads()) << first_->Output();
    second_ = Start();
    ASSERT_TRUE(second_->WaitUntilItStandsBy()) << second_->Output();
  }
  std::unique_ptr<Coordinator> Start() {
    return std::make_unique<Coordinator>(url_, folder_.path() / absl::StrCat(++starts_));
  }

  TemporaryFolder folder_;
  int starts_ = 0;
  std::unique_ptr<Postgres> postgres_;
  std::string url_;
  std::unique_ptr<Coordinator> first_;
  std::unique_ptr<Coordinator> second_;
};

TEST_F(LeaderTest, StandbySaysWhoLeads) {
  const std::string http = second_->StandbyAddress();
  const std::string leader = first_->grpc_address();
  EXPECT_TRUE(WaitUntil(
      [&] { return HttpGet(http, "/healthz") == absl::StrCat("standby; ", leader, " leads\n"); },
      kPatience));
  EXPECT_THAT(HttpGet(http, "/metrics"), HasSubstr("muster_coordinator_leader 0"));
  EXPECT_THAT(HttpGet(http, "/v1/jobs", 503), HasSubstr(leader));
  EXPECT_THAT(HttpGet(http, "/", 503), HasSubstr(leader));
  EXPECT_EQ(HttpGet(first_->http_address(), "/healthz"), "ok\n");
  EXPECT_THAT(HttpGet(first_->http_address(), "/metrics"),
              HasSubstr("muster_coordinator_leader 1"));
}

TEST_F(LeaderTest, StandbyTakesOverAfterKill9AndNothingIsLost) {
  for (int i = 0; i < 20; ++i) {
    const grpc::Status status = Create(first_->Channel(), absl::StrCat("job", i));
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  const std::string addresses = absl::StrCat(first_->grpc_address(), ",");
  first_->process().Signal(SIGKILL);
  const absl::Duration killed = base::MonotonicNow();
  ASSERT_TRUE(second_->WaitUntilItLeads()) << second_->Output();
  EXPECT_EQ(Jobs(second_->Channel()).size(), 20u);
  const absl::Duration took = base::MonotonicNow() - killed;
  EXPECT_LE(took, absl::Seconds(5));
  RecordProperty("takeover_milliseconds", static_cast<int>(absl::ToInt64Milliseconds(took)));
  std::printf("takeover after %.2f s\n", absl::ToDoubleSeconds(took));

  // People name both, in any order, and reach the one that leads.
  const Finished listed =
      muster::testing::Run({(ProgramFolder() / "muster").string(), "--coordinator",
                            absl::StrCat(addresses, second_->grpc_address()), "list"},
                           kPatience);
  EXPECT_EQ(listed.exit_code, base::kExitCompleted);
  EXPECT_THAT(listed.output, AllOf(HasSubstr("jobs/job0"), HasSubstr("jobs/job19")));

  // The next standby, and the next takeover.
  first_ = Start();
  ASSERT_TRUE(first_->WaitUntilItStandsBy()) << first_->Output();
  ASSERT_TRUE(Create(second_->Channel(), "later").ok());
  second_->process().Signal(SIGKILL);
  ASSERT_TRUE(first_->WaitUntilItLeads()) << first_->Output();
  EXPECT_EQ(Jobs(first_->Channel()).size(), 21u);
}

TEST_F(LeaderTest, SubmitDuringATakeoverWaitsForIt) {
  const std::string address = first_->grpc_address();
  // Known before it leads.
  const std::string next = absl::StrCat("127.0.0.2", address.substr(address.rfind(':')));
  second_ = std::make_unique<Coordinator>(url_, folder_.path() / "next", next);
  ASSERT_TRUE(second_->WaitUntilItStandsBy()) << second_->Output();
  first_->process().Signal(SIGKILL);
  ASSERT_TRUE(first_->process().Wait(kPatience).has_value());
  const Finished submitted = muster::testing::Run(
      {(ProgramFolder() / "muster").string(), "--coordinator", absl::StrCat(address, ",", next),
       "submit", (SourceFolder() / "configs/quick/demo.textproto").string(), "--name", "during"},
      kPatience);
  EXPECT_EQ(submitted.exit_code, base::kExitCompleted) << submitted.output;
  EXPECT_THAT(submitted.output, AllOf(HasSubstr("jobs/during"),
                                      HasSubstr("the coordinator is away; trying again for 15s")));
  EXPECT_THAT(Jobs(second_->Channel()), ::testing::ElementsAre("jobs/during"));
}

TEST_F(LeaderTest, LeaderThatWakesAfterItsLeaseCanNeitherWriteNorCommand) {
  const auto channel = first_->Channel();
  WorkerSession worker(channel);
  worker.Send(WorkerSession::Hello("a"));
  ASSERT_TRUE(worker.Await([](const auto& message) { return message.has_welcome(); }));
  first_->ForgetAddresses();
  first_->process().Signal(SIGSTOP);
  // Reaches the socket of a process that sleeps; the worker is free to take the job.
  auto late = std::async(std::launch::async, [&] { return Create(channel, "late"); });
  ASSERT_TRUE(second_->WaitUntilItLeads()) << second_->Output();
  ASSERT_TRUE(Create(second_->Channel(), "next").ok());
  first_->process().Signal(SIGCONT);
  EXPECT_EQ(late.get().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(worker.AwaitAllocation("jobs/late", v1::Allocation::GOAL_PREPARE).has_value());
  // It steps down, and waits for its turn again.
  ASSERT_TRUE(first_->WaitUntilItStandsBy("stepping down")) << first_->Output();
  EXPECT_FALSE(first_->Leads());
  EXPECT_THAT(Jobs(second_->Channel()), ::testing::ElementsAre("jobs/next"));
}

TEST_F(LeaderTest, StopHandsOverAtOnce) {
  first_->process().Signal(SIGTERM);
  const std::optional<int> status = first_->process().Wait(kPatience);
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(WEXITSTATUS(*status), base::kExitCompleted);
  ASSERT_TRUE(second_->WaitUntilItLeads()) << second_->Output();
  // A standby ends as quietly.
  first_ = Start();
  ASSERT_TRUE(first_->WaitUntilItStandsBy());
  first_->process().Signal(SIGTERM);
  const std::optional<int> standby = first_->process().Wait(kPatience);
  ASSERT_TRUE(standby.has_value());
  EXPECT_EQ(WEXITSTATUS(*standby), base::kExitCompleted);
}

TEST_F(LeaderTest, RequestsWaitWhileTheDatabaseIsAway) {
  // Only one, so that it is clear who leads afterwards.
  second_->process().Signal(SIGKILL);
  ASSERT_TRUE(Create(first_->Channel(), "before").ok());
  postgres_->Kill();
  auto waiting = std::async(std::launch::async, [&] { return Create(first_->Channel(), "a"); });
  ASSERT_TRUE(
      WaitUntil([&] { return absl::StrContains(first_->Output(), "the store fails"); }, kPatience))
      << first_->Output();
  postgres_->Start();
  const grpc::Status status = waiting.get();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(Jobs(first_->Channel()), ::testing::ElementsAre("jobs/a", "jobs/before"));
}

}  // namespace
}  // namespace muster::testing
