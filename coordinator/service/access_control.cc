#include "coordinator/service/access_control.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/rpc/errors.h"

namespace muster::coordinator {
namespace {

constexpr size_t kLongestToken = 200;

absl::Status Malformed() {
  return rpc::Error(
      absl::StatusCode::kUnauthenticated, "BAD_AUTHORIZATION",
      "the authorization is malformed; send one header 'Authorization: Bearer TOKEN'");
}

std::vector<std::string> AuthorizationOf(const grpc::CallbackServerContext& context) {
  std::vector<std::string> values;
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) values.emplace_back(it->second.data(), it->second.size());
  return values;
}

}  // namespace

absl::StatusOr<std::string> TokenFromAuthorization(absl::string_view value) {
  const size_t blank = value.find(' ');
  if (blank == absl::string_view::npos) return Malformed();
  const absl::string_view scheme = value.substr(0, blank);
  std::string token(value.substr(blank + 1));
  if (absl::EqualsIgnoreCase(scheme, "Basic")) {
    std::string decoded;
    if (!absl::Base64Unescape(token, &decoded)) return Malformed();
    const size_t colon = decoded.find(':');
    if (colon == std::string::npos) return Malformed();
    token = decoded.substr(colon + 1);
  } else if (!absl::EqualsIgnoreCase(scheme, "Bearer")) {
    return Malformed();
  }
  const bool plain = std::all_of(token.begin(), token.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
  if (!plain || token.empty() || token.size() > kLongestToken) return Malformed();
  return token;
}

AccessControl::AccessControl(const Options& options, std::vector<internal::TokenRecord> tokens,
                             const base::Clock& clock)
    : options_(options),
      tokens_(std::move(tokens), clock),
      writes_(options.writes, clock),
      reads_(options.reads, clock) {}

absl::StatusOr<Caller> AccessControl::Authenticate(
    const Permission& permission, const std::vector<std::string>& authorization) const {
  if (authorization.empty()) {
    return rpc::Error(
        absl::StatusCode::kUnauthenticated, "NO_TOKEN",
        "this coordinator asks for a token: give --token, MUSTER_TOKEN or ~/.config/muster/token");
  }
  if (authorization.size() > 1) return Malformed();
  const absl::StatusOr<std::string> token = TokenFromAuthorization(authorization[0]);
  if (!token.ok()) return token.status();
  return tokens_.Find(*token, /*for_join=*/permission.role == v1::Token::ROLE_JOIN);
}

absl::Status AccessControl::Admit(absl::string_view what, const Permission& permission,
                                  const std::vector<std::string>& authorization) {
  if (!options_.required || permission.role == v1::Token::ROLE_UNSPECIFIED) return absl::OkStatus();
  // JoinerOf looks at its attestation.
  if (permission.role == v1::Token::ROLE_JOIN && authorization.empty() &&
      options_.attestor != nullptr) {
    return absl::OkStatus();
  }
  const absl::StatusOr<Caller> caller = Authenticate(permission, authorization);
  if (!caller.ok()) return caller.status();
  if (!Allows(permission, caller->role)) {
    return rpc::Error(
        absl::StatusCode::kPermissionDenied, "ROLE_TOO_LOW",
        absl::StrCat(what, " needs the role ", RoleName(permission.role), ", and the token of '",
                     caller->subject, "' has ", RoleName(caller->role),
                     "; ask an admin for one with that role: muster token create"),
        {{"needed_role", RoleName(permission.role)}, {"role", RoleName(caller->role)}});
  }
  if (permission.cost == Permission::Cost::kSession) return absl::OkStatus();
  RateLimiter& limiter = permission.cost == Permission::Cost::kWrite ? writes_ : reads_;
  const absl::Duration wait = limiter.Take(caller->subject);
  if (wait == absl::ZeroDuration()) return absl::OkStatus();
  return rpc::Error(absl::StatusCode::kResourceExhausted, "RATE_LIMITED",
                    absl::StrCat("too many calls by '", caller->subject, "'; try again in ",
                                 absl::FormatDuration(absl::Ceil(wait, absl::Milliseconds(1)))));
}

absl::Status AccessControl::AdmitRpc(absl::string_view method,
                                     const grpc::CallbackServerContext& context) {
  const std::optional<Permission> permission = RpcPermission(method);
  if (!permission.has_value()) {
    return rpc::Error(absl::StatusCode::kPermissionDenied, "NOT_IN_TABLE",
                      absl::StrCat(method, " is not in the permission table"));
  }
  return Admit(method, *permission, AuthorizationOf(context));
}

absl::Status AccessControl::AdmitHttp(absl::string_view pattern, const std::string& authorization) {
  const std::optional<Permission> permission = HttpPermission(pattern);
  if (!permission.has_value()) {
    return rpc::Error(absl::StatusCode::kPermissionDenied, "NOT_IN_TABLE",
                      absl::StrCat(pattern, " is not in the permission table"));
  }
  std::vector<std::string> values;
  if (!authorization.empty()) values.push_back(authorization);
  return Admit(pattern, *permission, values);
}

Caller AccessControl::CallerOf(const grpc::CallbackServerContext& context) const {
  if (!options_.required) return {};
  const std::vector<std::string> authorization = AuthorizationOf(context);
  if (authorization.size() != 1) return {};
  const absl::StatusOr<std::string> token = TokenFromAuthorization(authorization[0]);
  if (!token.ok()) return {};
  return tokens_.Find(*token, /*for_join=*/true).value_or(Caller{});
}

absl::StatusOr<Caller> AccessControl::JoinerOf(const grpc::CallbackServerContext& context,
                                               const v1::JoinNodeRequest& request) const {
  const std::vector<std::string> authorization = AuthorizationOf(context);
  if (!authorization.empty() || options_.attestor == nullptr) return CallerOf(context);
  const absl::StatusOr<std::string> node =
      options_.attestor->Verify(request.attestation(), request.credential_sha256());
  if (!node.ok()) {
    return rpc::Error(node.status().code(), "BAD_ATTESTATION", node.status().message());
  }
  return Caller{v1::Token::ROLE_JOIN, *node, "", ""};
}

}  // namespace muster::coordinator
