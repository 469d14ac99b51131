// The commands about nodes against a scripted coordinator on a real gRPC port.
#include "cli/node_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <deque>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "common/base/exit_codes.h"
#include "common/rpc/errors.h"
#include "common/rpc/server.h"
#include "tests/support/fake_clock.h"

namespace muster::cli {
namespace {

using ::testing::HasSubstr;

// Holds node w1; each look at it shows the next of `looks`, then the last one again.
class ScriptedNodes : public v1::NodeService::Service {
 public:
  grpc::Status GetNode(grpc::ServerContext*, const v1::GetNodeRequest* request,
                       v1::Node* node) override {
    return Answer(request->name(), node);
  }
  grpc::Status CordonNode(grpc::ServerContext*, const v1::CordonNodeRequest* request,
                          v1::Node* node) override {
    asked = "cordon " + request->reason();
    return Answer(request->name(), node);
  }
  grpc::Status UncordonNode(grpc::ServerContext*, const v1::UncordonNodeRequest* request,
                            v1::Node* node) override {
    asked = "uncordon";
    return Answer(request->name(), node);
  }
  grpc::Status DrainNode(grpc::ServerContext*, const v1::DrainNodeRequest* request,
                         v1::Node* node) override {
    asked = "drain " + request->reason();
    return Answer(request->name(), node);
  }

  std::string asked;
  std::deque<v1::Node> looks;
  // Ctrl-C at a look that shows the last of them.
  bool interrupt_at_the_last = false;

 private:
  grpc::Status Answer(const std::string& name, v1::Node* node) {
    if (name != "nodes/w1") {
      return rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kNotFound, "NODE_NOT_FOUND",
                                          absl::StrCat("there is no node '", name, "'")));
    }
    *node = looks.front();
    if (looks.size() > 1) {
      looks.pop_front();
    } else if (interrupt_at_the_last) {
      kill(getpid(), SIGINT);
    }
    return grpc::Status::OK;
  }
};

class NodeCommandsTest : public ::testing::Test {
 protected:
  NodeCommandsTest() {
    // As InterruptWatcher does, and before the server's threads.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    rpc::ServerOptions options;
    options.address = "127.0.0.1:0";
    options.services = {&nodes_};
    auto server = rpc::Server::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    client_ = std::make_unique<CoordinatorClient>(server_->address());
  }
  Context context() { return {*client_, clock_, out_, err_}; }
  static v1::Node Look(bool draining, const std::vector<std::string>& jobs) {
    v1::Node node;
    node.set_name("nodes/w1");
    node.set_state(v1::Node::STATE_READY);
    node.set_cordoned(draining);
    node.set_draining(draining);
    for (const std::string& job : jobs) node.add_jobs(job);
    return node;
  }

  ScriptedNodes nodes_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<CoordinatorClient> client_;
  testing::FakeClock clock_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(NodeCommandsTest, CordonAndUncordonShowTheNode) {
  nodes_.looks = {Look(false, {"jobs/a"})};
  nodes_.looks[0].set_cordoned(true);
  EXPECT_EQ(Cordon("w1", "fan 3 fails", false, context()), base::kExitCompleted);
  EXPECT_EQ(nodes_.asked, "cordon fan 3 fails");
  EXPECT_EQ(out_.str(), "nodes/w1 CORDONED\n");
  nodes_.looks = {Look(false, {})};
  EXPECT_EQ(Uncordon("nodes/w1", true, context()), base::kExitCompleted);
  EXPECT_EQ(nodes_.asked, "uncordon");
  EXPECT_THAT(out_.str(), HasSubstr("\"state\":\"STATE_READY\""));
  EXPECT_EQ(Cordon("w2", "", false, context()), base::kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("there is no node 'nodes/w2'"));
}

TEST_F(NodeCommandsTest, DrainShowsWhatIsLeftUntilNothingIs) {
  nodes_.looks = {Look(true, {"jobs/a", "jobs/b"}), Look(true, {"jobs/b"}), Look(true, {"jobs/b"}),
                  Look(true, {})};
  EXPECT_EQ(Drain("w1", "new driver", false, context()), base::kExitCompleted);
  EXPECT_EQ(nodes_.asked, "drain new driver");
  EXPECT_EQ(out_.str(),
            "nodes/w1 DRAINING; 2 jobs left: jobs/a, jobs/b\n"
            "nodes/w1 DRAINING; 1 job left: jobs/b\n"
            "nodes/w1 DRAINED\n");
}

TEST_F(NodeCommandsTest, ADrainThatSomebodyEndsFails) {
  nodes_.looks = {Look(true, {"jobs/a"}), Look(false, {"jobs/a"})};
  EXPECT_EQ(Drain("w1", "", false, context()), base::kExitJobFailed);
  EXPECT_THAT(err_.str(), HasSubstr("was ended by somebody"));
}

TEST_F(NodeCommandsTest, CtrlCLeavesTheDrainOnAndSaysSo) {
  nodes_.looks = {Look(true, {"jobs/a"})};
  nodes_.interrupt_at_the_last = true;
  EXPECT_EQ(Drain("w1", "", false, context()), base::kExitCompleted);
  EXPECT_THAT(err_.str(), HasSubstr("nodes/w1 goes on draining"));
  EXPECT_THAT(err_.str(), HasSubstr("muster uncordon w1"));
  // The watcher has seen it, and left it.
  sigset_t pending;
  sigemptyset(&pending);
  sigaddset(&pending, SIGINT);
  const timespec at_once{};
  EXPECT_EQ(sigtimedwait(&pending, nullptr, &at_once), SIGINT);
}

}  // namespace
}  // namespace muster::cli
