#include "coordinator/service/node_service.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/rpc/errors.h"
#include "coordinator/service/page_token.h"

namespace muster::coordinator {
namespace {

grpc::Status Stopping() {
  return rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kUnavailable, "UNAVAILABLE",
                                      "the coordinator is stopping; try again"));
}

}  // namespace

grpc::ServerUnaryReactor* NodeServiceImpl::GetNode(grpc::CallbackServerContext* context,
                                                   const v1::GetNodeRequest* request,
                                                   v1::Node* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  state_->Ask([reactor, request, reply](const ClusterState* state, Instant) {
    if (state == nullptr) {
      reactor->Finish(Stopping());
      return;
    }
    std::optional<v1::Node> node = state->FindNode(request->name());
    if (!node.has_value()) {
      reactor->Finish(
          rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kNotFound, "NODE_NOT_FOUND",
                                       absl::StrCat("there is no node '", request->name(), "'"))));
      return;
    }
    *reply = *std::move(node);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* NodeServiceImpl::ListNodes(grpc::CallbackServerContext* context,
                                                     const v1::ListNodesRequest* request,
                                                     v1::ListNodesResponse* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<int> size = PageSize(request->page_size());
  const absl::StatusOr<std::string> after = ReadPageToken("nodes", request->page_token());
  if (!size.ok() || !after.ok()) {
    const absl::Status& wrong = size.ok() ? after.status() : size.status();
    reactor->Finish(
        rpc::ToGrpcStatus(rpc::Error(wrong.code(), "INVALID_REQUEST", wrong.message())));
    return reactor;
  }
  state_->Ask([reactor, reply, size = *size, after = *after](const ClusterState* state, Instant) {
    if (state == nullptr) {
      reactor->Finish(Stopping());
      return;
    }
    bool more = false;
    for (v1::Node& node : state->ListNodes(size, after, &more)) {
      *reply->add_nodes() = std::move(node);
    }
    if (more) {
      reply->set_next_page_token(
          MakePageToken("nodes", reply->nodes(reply->nodes_size() - 1).name()));
    }
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

}  // namespace muster::coordinator
