// How long a coordinator takes for a submission and for a page of the job list, one call at a time:
// bench/compare --what jobs. Submissions and pages take turns, so that no page profits from the one
// before; the pages go through the whole list again and again.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "CLI/CLI.hpp"
#include "common/base/clock.h"
#include "common/base/random_id.h"
#include "muster/v1/job_service.grpc.pb.h"
#include "tests/support/small_job.h"

namespace {

using namespace muster;  // NOLINT(build/namespaces): a program of one file

class Timer {
 public:
  explicit Timer(std::string name) : name_(std::move(name)) {}

  // False when the call failed.
  template <typename Call>
  bool Time(const Call& call) {
    const absl::Duration start = base::MonotonicNow();
    const grpc::Status status = call();
    milliseconds_.push_back(absl::ToDoubleMilliseconds(base::MonotonicNow() - start));
    if (!status.ok()) {
      std::fprintf(stderr, "api_latency: %s: %s\n", name_.c_str(), status.error_message().c_str());
    }
    return status.ok();
  }

  void Print() {
    std::sort(milliseconds_.begin(), milliseconds_.end());
    const auto quantile = [&](double q) {
      return milliseconds_[static_cast<size_t>(q * static_cast<double>(milliseconds_.size() - 1))];
    };
    std::printf("%s_count %zu\n%s_median_ms %.2f\n%s_p99_ms %.2f\n%s_max_ms %.2f\n", name_.c_str(),
                milliseconds_.size(), name_.c_str(), quantile(0.5), name_.c_str(), quantile(0.99),
                name_.c_str(), quantile(1));
  }

 private:
  const std::string name_;
  std::vector<double> milliseconds_;
};

}  // namespace

int main(int argc, char** argv) {
  std::string coordinator;
  int calls = 1000;
  CLI::App parser("Times submissions and pages of the job list", "api_latency");
  parser.option_defaults()->always_capture_default();
  parser.add_option("--coordinator", coordinator, "IP:PORT")->required();
  parser.add_option("--calls", calls, "Of each kind");
  CLI11_PARSE(parser, argc, argv);

  const auto stub =
      v1::JobService::NewStub(grpc::CreateChannel(coordinator, grpc::InsecureChannelCredentials()));
  Timer submit("submit");
  Timer page("list_page");
  Timer matching("list_of_state");
  Timer matchless("list_without_match");
  v1::ListJobsRequest pages;
  const auto list = [&](const v1::ListJobsRequest& request, v1::ListJobsResponse* reply) {
    grpc::ClientContext context;
    return stub->ListJobs(&context, request, reply);
  };
  bool good = true;
  for (int i = 0; i < calls && good; ++i) {
    good = submit.Time([&] {
      grpc::ClientContext context;
      v1::Job job;
      return stub->CreateJob(
          &context, testing::SmallJobRequest(absl::StrCat("timed-", i), base::RandomUuid()), &job);
    });
    v1::ListJobsResponse reply;
    good = good && page.Time([&] { return list(pages, &reply); });
    pages.set_page_token(reply.next_page_token());
    v1::ListJobsRequest of_state;
    of_state.add_states(v1::Job::STATE_SUCCEEDED);
    good = good && matching.Time([&] { return list(of_state, &reply); });
    of_state.set_states(0, v1::Job::STATE_CANCELLED);
    good = good && matchless.Time([&] { return list(of_state, &reply); });
  }
  for (Timer* timer : {&submit, &page, &matching, &matchless}) timer->Print();
  return good ? 0 : 1;
}
