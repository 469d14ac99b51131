// The program itself: what it prints, how it ends, and what kill -9 leaves.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/support/small_job.h"

namespace muster::testing {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

class ProgramTest : public ::testing::Test {
 protected:
  std::string Program() const { return (ProgramFolder() / "muster-coordinator").string(); }
  std::filesystem::path Store() const { return folder_.path() / "store.db"; }

  std::unique_ptr<Process> Start() {
    const std::filesystem::path addresses = folder_.path() / absl::StrCat("addresses", ++starts_);
    Process::Options options;
    options.arguments = {Program(),        "--listen",       "127.0.0.1:0",
                         "--http",         "127.0.0.1:0",    "--store",
                         Store().string(), "--address-file", addresses.string()};
    options.output = folder_.path() / absl::StrCat("output", starts_);
    auto process = std::make_unique<Process>(options);
    EXPECT_TRUE(WaitUntil([&] { return std::filesystem::exists(addresses); }, kPatience))
        << process->Output();
    const std::vector<std::string> lines =
        absl::StrSplit(base::ReadFile(addresses).value_or(""), '\n');
    grpc_address_ = lines[0];
    http_address_ = lines.size() > 1 ? lines[1] : "";
    jobs_ = v1::JobService::NewStub(
        grpc::CreateChannel(grpc_address_, grpc::InsecureChannelCredentials()));
    return process;
  }
  v1::Job Create(const std::string& id, const std::string& request_id) {
    grpc::ClientContext context;
    v1::Job job;
    const grpc::Status status =
        jobs_->CreateJob(&context, testing::SmallJobRequest(id, request_id), &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  TemporaryFolder folder_;
  int starts_ = 0;
  std::string grpc_address_;
  std::string http_address_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

TEST_F(ProgramTest, WhatWasAcknowledgedSurvivesKill9) {
  for (int round = 0; round < 3; ++round) {
    auto process = Start();
    const std::string id = absl::StrCat("job", round);
    const v1::Job created = Create(id, absl::StrCat("request", round));
    process->Signal(SIGKILL);
    ASSERT_TRUE(process->Wait(kPatience).has_value());

    auto again = Start();
    for (int earlier = 0; earlier <= round; ++earlier) {
      grpc::ClientContext context;
      v1::GetJobRequest get;
      get.set_name(absl::StrCat("jobs/job", earlier));
      v1::Job job;
      ASSERT_TRUE(jobs_->GetJob(&context, get, &job).ok()) << get.name() << " was lost";
      EXPECT_EQ(job.state(), v1::Job::STATE_QUEUED);
    }
    EXPECT_EQ(Create(id, absl::StrCat("request", round)).uid(), created.uid())
        << "the request's id was forgotten";
    again->Signal(SIGKILL);
    ASSERT_TRUE(again->Wait(kPatience).has_value());
  }
}

TEST_F(ProgramTest, PrintsItsAddressesAndEndsOnSigterm) {
  auto process = Start();
  EXPECT_THAT(process->Output(),
              HasSubstr(absl::StrCat("muster-coordinator: listening on ", grpc_address_,
                                     " (gRPC), ", http_address_, " (HTTP)\n")));
  process->Signal(SIGTERM);
  const std::optional<int> status = process->Wait(kPatience);
  ASSERT_TRUE(status.has_value()) << "it does not end";
  EXPECT_TRUE(WIFEXITED(*status));
  EXPECT_EQ(WEXITSTATUS(*status), base::kExitCompleted);
}

TEST_F(ProgramTest, SaysInOneLineWhatIsWrong) {
  auto process = Start();
  const std::string other = (folder_.path() / "other.db").string();
  struct Case {
    std::vector<std::string> arguments;
    int exit_code;
    std::string message;
  };
  const std::vector<Case> cases = {
      {{"--listen", grpc_address_, "--http", "127.0.0.1:0", "--store", other},
       base::kExitUnavailable,
       grpc_address_},
      {{"--listen", "127.0.0.1:0", "--http", http_address_, "--store", other},
       base::kExitUnavailable,
       http_address_},
      {{"--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", Store().string()},
       base::kExitUnavailable,
       "in use by another coordinator"},
      {{"--listen", "0.0.0.0:0", "--http", "127.0.0.1:0", "--store", other},
       base::kExitUsage,
       "0.0.0.0:0"},
      {{"--listen", "127.0.0.1:0", "--store", other, "--lost-after", "soon"},
       base::kExitUsage,
       "--lost-after"},
      {{}, base::kExitUsage, "--store"},
  };
  for (const Case& one : cases) {
    std::vector<std::string> arguments = {Program()};
    arguments.insert(arguments.end(), one.arguments.begin(), one.arguments.end());
    const Finished finished = muster::testing::Run(arguments, kPatience);
    EXPECT_EQ(finished.exit_code, one.exit_code) << finished.output;
    EXPECT_THAT(finished.output, HasSubstr(one.message));
    EXPECT_LE(std::count(finished.output.begin(), finished.output.end(), '\n'), 2)
        << finished.output;
  }
}

}  // namespace
}  // namespace muster::testing
