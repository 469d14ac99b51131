#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "muster/v1/access_service.pb.h"

namespace muster::coordinator {

// What a call needs and what it counts as.
struct Permission {
  enum class Cost { kRead, kWrite, kSession };
  // The lowest of VIEW, SUBMIT and ADMIN that may; or NODE or JOIN, which only those may.
  // ROLE_UNSPECIFIED: everybody, without a token.
  v1::Token::Role role = v1::Token::ROLE_ADMIN;
  // Which of a caller's rate limits it draws on; kSession: none.
  Cost cost = Cost::kRead;
  // Nodes may as well.
  bool also_nodes = false;
};

// The permission table. Nothing for what is not in it: such a call is refused to everybody.
// `method` is "muster.v1.JobService/CreateJob", `pattern` that of an HTTP route.
std::optional<Permission> RpcPermission(absl::string_view method);
std::optional<Permission> HttpPermission(absl::string_view pattern);

// Everything in it, for tests and documentation.
std::vector<std::string> ListedRpcs();
std::vector<std::string> ListedRoutes();

// Whether somebody with `role` may do what needs `permission`.
bool Allows(const Permission& permission, v1::Token::Role role);

// "view", "submit", "admin", "node", "join"; "none" for ROLE_UNSPECIFIED.
std::string RoleName(v1::Token::Role role);

}  // namespace muster::coordinator
