#include "coordinator/service/access_table.h"

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace muster::coordinator {
namespace {

using Cost = Permission::Cost;
using v1::Token;

using Table = std::map<absl::string_view, Permission>;

// gRPC's own health and reflection services are open: they tell no more than the sources do.
const Table& Rpcs() {
  static const auto* table = new Table{
      {"muster.v1.AccessService/CreateToken", {Token::ROLE_ADMIN, Cost::kWrite}},
      {"muster.v1.AccessService/JoinNode", {Token::ROLE_JOIN, Cost::kSession}},
      {"muster.v1.AccessService/ListTokens", {Token::ROLE_ADMIN, Cost::kRead}},
      {"muster.v1.AccessService/RevokeToken", {Token::ROLE_ADMIN, Cost::kWrite}},
      {"muster.v1.JobService/CancelJob", {Token::ROLE_SUBMIT, Cost::kWrite}},
      {"muster.v1.JobService/CreateJob", {Token::ROLE_SUBMIT, Cost::kWrite}},
      // A node asks which of the jobs on its disk have ended.
      {"muster.v1.JobService/GetJob", {Token::ROLE_VIEW, Cost::kRead, /*also_nodes=*/true}},
      {"muster.v1.JobService/ListEvents", {Token::ROLE_VIEW, Cost::kRead}},
      {"muster.v1.JobService/ListJobs", {Token::ROLE_VIEW, Cost::kRead}},
      {"muster.v1.JobService/StreamLogs", {Token::ROLE_VIEW, Cost::kRead}},
      {"muster.v1.JobService/WatchJob", {Token::ROLE_VIEW, Cost::kRead}},
      {"muster.v1.NodeService/CordonNode", {Token::ROLE_ADMIN, Cost::kWrite}},
      {"muster.v1.NodeService/DrainNode", {Token::ROLE_ADMIN, Cost::kWrite}},
      {"muster.v1.NodeService/GetNode", {Token::ROLE_VIEW, Cost::kRead}},
      {"muster.v1.NodeService/ListNodes", {Token::ROLE_VIEW, Cost::kRead}},
      {"muster.v1.NodeService/UncordonNode", {Token::ROLE_ADMIN, Cost::kWrite}},
      {"muster.v1.WorkerService/Session", {Token::ROLE_NODE, Cost::kSession}},
  };
  return *table;
}

const Table& Routes() {
  static const auto* table = new Table{
      {"/", {Token::ROLE_VIEW, Cost::kRead}},
      {"/healthz", {Token::ROLE_UNSPECIFIED, Cost::kRead}},
      {"/metrics", {Token::ROLE_VIEW, Cost::kRead}},
      {"/v1/jobs", {Token::ROLE_VIEW, Cost::kRead}},
      {"/v1/jobs/([^/]+)", {Token::ROLE_VIEW, Cost::kRead}},
      {"/v1/nodes", {Token::ROLE_VIEW, Cost::kRead}},
      {"/v1/sd/prometheus", {Token::ROLE_VIEW, Cost::kRead}},
  };
  return *table;
}

std::optional<Permission> Find(const Table& table, absl::string_view key) {
  auto it = table.find(key);
  return it == table.end() ? std::nullopt : std::optional<Permission>(it->second);
}

std::vector<std::string> Keys(const Table& table) {
  std::vector<std::string> keys;
  for (const auto& [key, permission] : table) keys.emplace_back(key);
  return keys;
}

bool IsUser(Token::Role role) {
  return role == Token::ROLE_VIEW || role == Token::ROLE_SUBMIT || role == Token::ROLE_ADMIN;
}

}  // namespace

std::optional<Permission> RpcPermission(absl::string_view method) { return Find(Rpcs(), method); }

std::optional<Permission> HttpPermission(absl::string_view pattern) {
  return Find(Routes(), pattern);
}

std::vector<std::string> ListedRpcs() { return Keys(Rpcs()); }

std::vector<std::string> ListedRoutes() { return Keys(Routes()); }

bool Allows(const Permission& permission, Token::Role role) {
  if (permission.role == Token::ROLE_UNSPECIFIED) return true;
  if (role == Token::ROLE_NODE && permission.also_nodes) return true;
  if (!IsUser(permission.role)) return role == permission.role;
  // Users' roles are numbered in order.
  return IsUser(role) && role >= permission.role;
}

std::string RoleName(Token::Role role) {
  if (role == Token::ROLE_UNSPECIFIED) return "none";
  return absl::AsciiStrToLower(absl::StripPrefix(Token::Role_Name(role), "ROLE_"));
}

}  // namespace muster::coordinator
