// `muster events`, and a client that knows several coordinators.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "cli/commands.h"
#include "common/base/exit_codes.h"
#include "common/rpc/errors.h"
#include "common/rpc/server.h"
#include "tests/support/fake_clock.h"

namespace muster::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// Two events a page, whatever was asked for.
class ScriptedCoordinator : public v1::JobService::Service {
 public:
  ScriptedCoordinator() {
    rpc::ServerOptions options;
    options.address = "127.0.0.1:0";
    options.services = {this};
    auto server = rpc::Server::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  grpc::Status ListEvents(grpc::ServerContext*, const v1::ListEventsRequest* request,
                          v1::ListEventsResponse* response) override {
    parents.push_back(request->parent());
    if (request->parent() == "jobs/none") {
      return rpc::ToGrpcStatus(
          rpc::Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "there is no jobs/none"));
    }
    const size_t first = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    for (size_t i = first; i < std::min(first + 2, events.size()); ++i) {
      *response->add_events() = events[i];
    }
    if (first + 2 < events.size()) response->set_next_page_token(absl::StrCat(first + 2));
    return grpc::Status::OK;
  }

  void Add(const std::string& job, const std::string& node, const std::string& type,
           const std::string& actor, const std::string& message) {
    v1::JobEvent& event = events.emplace_back();
    event.set_sequence(static_cast<int64_t>(events.size()));
    event.mutable_time()->set_seconds(1'700'000'000);
    event.set_job(job);
    event.set_node(node);
    event.set_type(type);
    event.set_actor(actor);
    event.set_message(message);
  }
  const std::string& address() const { return server_->address(); }
  void Stop() { server_.reset(); }

  std::vector<v1::JobEvent> events;
  std::vector<std::string> parents;

 private:
  std::unique_ptr<rpc::Server> server_;
};

class EventsTest : public ::testing::Test {
 protected:
  int Run(const EventsOptions& options) { return Events(options, {client_, clock_, out_, err_}); }

  ScriptedCoordinator coordinator_;
  CoordinatorClient client_{coordinator_.address()};
  testing::FakeClock clock_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(EventsTest, TableOfAllPages) {
  coordinator_.Add("jobs/a", "", "Submitted", "alice", "2 ranks on 2 nodes");
  coordinator_.Add("", "nodes/n", "Cordoned", "bob", "fan 3 fails");
  coordinator_.Add("jobs/a", "nodes/n", "NodeLost", "", "");
  EXPECT_EQ(Run({}), base::kExitCompleted);
  const std::string text = out_.str();
  EXPECT_THAT(text, HasSubstr("TIME                 OBJECT   TYPE       ACTOR  MESSAGE\n"));
  EXPECT_THAT(text, AllOf(HasSubstr("jobs/a   Submitted  alice  2 ranks on 2 nodes\n"),
                          HasSubstr("nodes/n  Cordoned   bob    fan 3 fails\n"),
                          HasSubstr("jobs/a nodes/n  NodeLost  -")));
  EXPECT_EQ(text.find("TIME"), text.rfind("TIME"));
  EXPECT_THAT(text, MatchesRegex("TIME[^\n]*\n20[0-9-]+ [0-9:]+ [^\n]*\n[^\n]*\n[^\n]*\n"));
}

TEST_F(EventsTest, OfAJobOrANode) {
  EventsOptions of_job;
  of_job.job = "a";
  EventsOptions of_node;
  of_node.node = "n";
  EXPECT_EQ(Run(of_job), base::kExitCompleted);
  EXPECT_EQ(Run(of_node), base::kExitCompleted);
  of_node.node = "nodes/n";
  EXPECT_EQ(Run(of_node), base::kExitCompleted);
  EXPECT_THAT(coordinator_.parents, ElementsAre("jobs/a", "nodes/n", "nodes/n"));
  EXPECT_EQ(out_.str(), "no events\nno events\nno events\n");
}

TEST_F(EventsTest, JsonIsOneObjectALine) {
  coordinator_.Add("jobs/a", "", "Submitted", "alice", "");
  coordinator_.Add("jobs/a", "", "Placed", "", "");
  EventsOptions options;
  options.json = true;
  EXPECT_EQ(Run(options), base::kExitCompleted);
  EXPECT_THAT(out_.str(),
              AllOf(HasSubstr("\"actor\":\"alice\"}\n{\"sequence\":\"2\""),
                    HasSubstr("\"time\":\"2023-11-14T22:13:20Z\""), Not(HasSubstr("TIME"))));
}

TEST_F(EventsTest, UnknownJobIsAnError) {
  EventsOptions options;
  options.job = "none";
  EXPECT_EQ(Run(options), base::kExitUsage);
  EXPECT_EQ(err_.str(), "muster: there is no jobs/none\n");
}

TEST(CoordinatorClientTest, OfSeveralCoordinatorsUsesOneThatAnswers) {
  ScriptedCoordinator first;
  ScriptedCoordinator second;
  ScriptedCoordinator gone;
  const std::string nobody = gone.address();
  gone.Stop();
  CoordinatorClient client(absl::StrCat(nobody, ",", first.address(), ",", second.address()));
  const auto list = [&] {
    v1::ListEventsResponse response;
    return client.ListEvents(v1::ListEventsRequest(), &response);
  };
  ASSERT_TRUE(list().ok());
  ASSERT_TRUE(list().ok());
  EXPECT_EQ(first.parents.size(), 2u);
  first.Stop();
  EXPECT_EQ(list().error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(list().ok());
  EXPECT_EQ(second.parents.size(), 1u);
  second.Stop();
  const grpc::Status none = list();
  EXPECT_EQ(none.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(client.Explain(none), HasSubstr(nobody));
}

}  // namespace
}  // namespace muster::cli
