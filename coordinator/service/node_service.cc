#include "coordinator/service/node_service.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "common/rpc/errors.h"
#include "coordinator/service/page_token.h"

namespace muster::coordinator {
namespace {

grpc::Status Stopping() {
  return rpc::ToGrpcStatus(rpc::Error(absl::StatusCode::kUnavailable, "UNAVAILABLE",
                                      "the coordinator is stopping; try again"));
}

grpc::Status NodeError(const absl::Status& status) {
  const char* reason = absl::IsNotFound(status)      ? "NODE_NOT_FOUND"
                       : absl::IsUnavailable(status) ? "UNAVAILABLE"
                                                     : "INVALID_REQUEST";
  return rpc::ToGrpcStatus(rpc::Error(status.code(), reason, status.message()));
}

// Reasons are shown in tables and kept with the node.
constexpr size_t kLongestReason = 500;

grpc::Status CheckReason(const std::string& reason) {
  const bool one_line = std::none_of(reason.begin(), reason.end(), [](char c) {
    return absl::ascii_iscntrl(static_cast<unsigned char>(c));
  });
  if (one_line && reason.size() <= kLongestReason) return grpc::Status::OK;
  return NodeError(absl::InvalidArgumentError(
      absl::StrCat("reason: must be one line of at most ", kLongestReason, " bytes")));
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

grpc::ServerUnaryReactor* NodeServiceImpl::Change(grpc::CallbackServerContext* context,
                                                  Command command, v1::Node* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  state_->Post(std::move(command), [reactor, reply](const Effects& effects) {
    if (!effects.node_reply.has_value()) {
      reactor->Finish(Stopping());
    } else if (!effects.node_reply->ok()) {
      reactor->Finish(NodeError(effects.node_reply->status()));
    } else {
      *reply = **effects.node_reply;
      reactor->Finish(grpc::Status::OK);
    }
  });
  return reactor;
}

grpc::ServerUnaryReactor* NodeServiceImpl::Cordon(grpc::CallbackServerContext* context,
                                                  const std::string& name,
                                                  const std::string& reason, bool drain,
                                                  v1::Node* reply) {
  if (const grpc::Status wrong = CheckReason(reason); !wrong.ok()) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(wrong);
    return reactor;
  }
  return Change(context, CordonNodeCommand{name, reason, drain, access_->ActorOf(*context)}, reply);
}

grpc::ServerUnaryReactor* NodeServiceImpl::CordonNode(grpc::CallbackServerContext* context,
                                                      const v1::CordonNodeRequest* request,
                                                      v1::Node* reply) {
  return Cordon(context, request->name(), request->reason(), /*drain=*/false, reply);
}

grpc::ServerUnaryReactor* NodeServiceImpl::UncordonNode(grpc::CallbackServerContext* context,
                                                        const v1::UncordonNodeRequest* request,
                                                        v1::Node* reply) {
  return Change(context, UncordonNodeCommand{request->name(), access_->ActorOf(*context)}, reply);
}

grpc::ServerUnaryReactor* NodeServiceImpl::DrainNode(grpc::CallbackServerContext* context,
                                                     const v1::DrainNodeRequest* request,
                                                     v1::Node* reply) {
  return Cordon(context, request->name(), request->reason(), /*drain=*/true, reply);
}

}  // namespace muster::coordinator
