#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"

#include "common/base/clock.h"
#include "coordinator/service/access_table.h"
#include "coordinator/service/node_attestor.h"
#include "coordinator/service/rate_limiter.h"
#include "coordinator/service/token_table.h"

namespace muster::coordinator {

// The one place that decides who may do what: the permission table applied to tokens, and each
// user's rate. Thread-safe.
class AccessControl {
 public:
  struct Options {
    // False: no authentication, everybody may do everything (plaintext on loopback).
    bool required = false;
    // Of each user, all of the user's tokens together; only where authentication is required.
    RateLimiter::Rate writes{20, 500};
    RateLimiter::Rate reads{200, 2000};
    // Null: nodes join with join tokens only. Must live longer than the AccessControl.
    const NodeAttestor* attestor = nullptr;
  };
  AccessControl(const Options& options, std::vector<internal::TokenRecord> tokens,
                const base::Clock& clock);

  // Whether the call may go on, and counts it. `method` is "muster.v1.JobService/CreateJob".
  // Errors: reasons NO_TOKEN, BAD_AUTHORIZATION, those of TokenTable::Find (UNAUTHENTICATED),
  // ROLE_TOO_LOW (PERMISSION_DENIED), RATE_LIMITED (RESOURCE_EXHAUSTED).
  absl::Status AdmitRpc(absl::string_view method, const grpc::CallbackServerContext& context);
  // `pattern` is the route's, `authorization` the header ("" when there is none): "Bearer TOKEN",
  // or what browsers send, "Basic base64(anything:TOKEN)".
  absl::Status AdmitHttp(absl::string_view pattern, const std::string& authorization);

  // Who makes a call that was admitted; nobody in particular without authentication.
  Caller CallerOf(const grpc::CallbackServerContext& context) const;
  // The user (or node) of it; empty without authentication.
  std::string ActorOf(const grpc::CallbackServerContext& context) const {
    return CallerOf(context).subject;
  }

  // Who may join as `request` says: the holder of a join token, or, without a token, the node of an
  // attestation. WRONG_NODE for another node's attestation, and what the attestor answers.
  absl::StatusOr<Caller> JoinerOf(const grpc::CallbackServerContext& context,
                                  const v1::JoinNodeRequest& request) const;

  bool required() const { return options_.required; }
  TokenTable& tokens() { return tokens_; }
  const TokenTable& tokens() const { return tokens_; }

 private:
  absl::StatusOr<Caller> Authenticate(const Permission& permission,
                                      const std::vector<std::string>& authorization) const;
  absl::Status Admit(absl::string_view what, const Permission& permission,
                     const std::vector<std::string>& authorization);

  const Options options_;
  TokenTable tokens_;
  RateLimiter writes_;
  RateLimiter reads_;
};

// The token in the value of an Authorization header; nothing when it is malformed. Bearer (the
// scheme in any case) or Basic.
absl::StatusOr<std::string> TokenFromAuthorization(absl::string_view value);

}  // namespace muster::coordinator
