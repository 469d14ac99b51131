#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpcpp/grpcpp.h"

#include "common/rpc/channel.h"
#include "common/rpc/errors.h"
#include "common/rpc/limits.h"
#include "muster/v1/node_service.grpc.pb.h"
#include "tests/support/shared_data.h"

namespace muster::rpc {
namespace {

using ::testing::HasSubstr;

class ScriptedNodes : public v1::NodeService::Service {
 public:
  grpc::Status GetNode(grpc::ServerContext*, const v1::GetNodeRequest* request,
                       v1::Node* node) override {
    if (++calls_ <= failures_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "not yet");
    if (request->name() == "nodes/none") {
      return ToGrpcStatus(Error(absl::StatusCode::kNotFound, "NODE_NOT_FOUND", "no such node"));
    }
    node->set_name(request->name());
    return grpc::Status::OK;
  }

  int failures_ = 0;
  int calls_ = 0;
};

grpc::Status Get(const std::string& address, const std::string& name, v1::Node* node) {
  auto stub = v1::NodeService::NewStub(CreateChannel(address));
  grpc::ClientContext context;
  SetDeadline(&context, kDefaultDeadline);
  v1::GetNodeRequest request;
  request.set_name(name);
  return stub->GetNode(&context, request, node);
}

TEST(ServerTest, ServesOnAnyPortAndCarriesErrors) {
  ScriptedNodes nodes;
  auto server = Server::Start({.address = "127.0.0.1:0", .services = {&nodes}});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT((*server)->port(), 0);
  v1::Node node;
  EXPECT_TRUE(Get((*server)->address(), "nodes/a", &node).ok());
  EXPECT_EQ(node.name(), "nodes/a");
  EXPECT_EQ(ErrorReason(FromGrpcStatus(Get((*server)->address(), "nodes/none", &node))),
            "NODE_NOT_FOUND");
}

TEST(ServerTest, UnavailableIsTriedAgain) {
  ScriptedNodes nodes;
  nodes.failures_ = 2;
  auto server = Server::Start({.address = "127.0.0.1:0", .services = {&nodes}});
  ASSERT_TRUE(server.ok()) << server.status();
  v1::Node node;
  const grpc::Status status = Get((*server)->address(), "nodes/a", &node);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(nodes.calls_, 3);
}

TEST(ServerTest, UnixSocket) {
  muster::testing::TemporaryFolder folder;
  ScriptedNodes nodes;
  const std::string address = "unix:" + (folder.path() / "s").string();
  auto server = Server::Start({.address = address, .services = {&nodes}});
  ASSERT_TRUE(server.ok()) << server.status();
  v1::Node node;
  EXPECT_TRUE(Get(address, "nodes/a", &node).ok());
}

TEST(ServerTest, PortInUseNamesTheAddress) {
  ScriptedNodes nodes;
  auto first = Server::Start({.address = "127.0.0.1:0", .services = {&nodes}});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Server::Start({.address = (*first)->address(), .services = {&nodes}});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("Address already in use"));
}

TEST(ServerTest, PlaintextStaysOnLoopback) {
  ScriptedNodes nodes;
  EXPECT_EQ(Server::Start({.address = "0.0.0.0:0", .services = {&nodes}}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ServerTest, BadAddress) {
  ScriptedNodes nodes;
  EXPECT_EQ(Server::Start({.address = "127.0.0.1", .services = {&nodes}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace muster::rpc
