#pragma once

#include "coordinator/service/state_thread.h"
#include "muster/v1/node_service.grpc.pb.h"

namespace muster::coordinator {

// NodeService over gRPC's callback API. Reasons of its errors: NODE_NOT_FOUND, INVALID_REQUEST,
// UNAVAILABLE.
class NodeServiceImpl : public v1::NodeService::CallbackService {
 public:
  explicit NodeServiceImpl(StateThread* state) : state_(state) {}

  grpc::ServerUnaryReactor* GetNode(grpc::CallbackServerContext* context,
                                    const v1::GetNodeRequest* request, v1::Node* reply) override;
  grpc::ServerUnaryReactor* ListNodes(grpc::CallbackServerContext* context,
                                      const v1::ListNodesRequest* request,
                                      v1::ListNodesResponse* reply) override;

 private:
  StateThread* const state_;
};

}  // namespace muster::coordinator
