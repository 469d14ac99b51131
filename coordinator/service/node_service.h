#pragma once

#include <string>

#include "coordinator/service/access_control.h"
#include "coordinator/service/state_thread.h"
#include "muster/v1/node_service.grpc.pb.h"

namespace muster::coordinator {

// NodeService over gRPC's callback API. Reasons of its errors: NODE_NOT_FOUND, INVALID_REQUEST,
// UNAVAILABLE.
class NodeServiceImpl : public v1::NodeService::CallbackService {
 public:
  NodeServiceImpl(StateThread* state, const AccessControl* access)
      : state_(state), access_(access) {}

  grpc::ServerUnaryReactor* GetNode(grpc::CallbackServerContext* context,
                                    const v1::GetNodeRequest* request, v1::Node* reply) override;
  grpc::ServerUnaryReactor* ListNodes(grpc::CallbackServerContext* context,
                                      const v1::ListNodesRequest* request,
                                      v1::ListNodesResponse* reply) override;
  grpc::ServerUnaryReactor* CordonNode(grpc::CallbackServerContext* context,
                                       const v1::CordonNodeRequest* request,
                                       v1::Node* reply) override;
  grpc::ServerUnaryReactor* UncordonNode(grpc::CallbackServerContext* context,
                                         const v1::UncordonNodeRequest* request,
                                         v1::Node* reply) override;
  grpc::ServerUnaryReactor* DrainNode(grpc::CallbackServerContext* context,
                                      const v1::DrainNodeRequest* request,
                                      v1::Node* reply) override;

 private:
  // Answers with the node as it is after the command.
  grpc::ServerUnaryReactor* Change(grpc::CallbackServerContext* context, Command command,
                                   v1::Node* reply);

  grpc::ServerUnaryReactor* Cordon(grpc::CallbackServerContext* context, const std::string& name,
                                   const std::string& reason, bool drain, v1::Node* reply);

  StateThread* const state_;
  const AccessControl* const access_;
};

}  // namespace muster::coordinator
