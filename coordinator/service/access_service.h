#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "coordinator/service/access_control.h"
#include "coordinator/service/state_thread.h"
#include "coordinator/store/state_store.h"
#include "muster/v1/access_service.grpc.pb.h"

namespace muster::coordinator {

// AccessService over gRPC's callback API. What it changes is stored before it is in force. Reasons
// of its errors: BAD_REQUEST, INVALID_REQUEST, UNAVAILABLE, and those of TokenTable.
class AccessServiceImpl : public v1::AccessService::CallbackService {
 public:
  struct Deps {
    AccessControl* access;
    StateThread* state;
    // A new secret.
    std::function<std::string()> make_secret;
  };
  explicit AccessServiceImpl(Deps deps) : deps_(std::move(deps)) {}

  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* context,
                                        const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* reply) override;
  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* context,
                                       const v1::ListTokensRequest* request,
                                       v1::ListTokensResponse* reply) override;
  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* context,
                                        const v1::RevokeTokenRequest* request,
                                        v1::Token* reply) override;
  grpc::ServerUnaryReactor* JoinNode(grpc::CallbackServerContext* context,
                                     const v1::JoinNodeRequest* request,
                                     v1::JoinNodeResponse* reply) override;

 private:
  // Stores the records, then puts them in force, then calls `done` with whether that went well.
  void Store(std::vector<internal::TokenRecord> records,
             std::function<void(const absl::Status&)> done);

  const Deps deps_;
};

// Makes a token in a store that no coordinator holds: how the first admin gets in. Returns its
// secret.
absl::StatusOr<std::string> CreateStoredToken(const v1::Token& wanted, const base::Clock& clock,
                                              StateStore* store);

}  // namespace muster::coordinator
