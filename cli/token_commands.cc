#include "cli/token_commands.h"

#include <ostream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "cli/format.h"
#include "common/base/exit_codes.h"

namespace muster::cli {
namespace {

int Fail(const Context& context, const grpc::Status& status) {
  context.err << "muster: " << context.client.Explain(status) << "\n";
  return ExitCodeFor(status);
}

std::string RoleText(v1::Token::Role role) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::Token::Role_Name(role), "ROLE_"));
}

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

std::string StateText(const v1::Token& token, absl::Time now) {
  if (token.has_revoke_time()) return absl::StrCat("revoked ", AgeText(token.revoke_time(), now));
  if (token.has_use_time()) return absl::StrCat("used ", AgeText(token.use_time(), now));
  if (!token.has_expire_time()) return "good";
  const absl::Duration left = ToTime(token.expire_time()) - now;
  if (left <= absl::ZeroDuration()) return "expired";
  return absl::StrCat("good for ", DurationText(left));
}

}  // namespace

int CreateToken(const CreateTokenOptions& options, const Context& context) {
  v1::CreateTokenRequest request;
  v1::Token::Role role = v1::Token::ROLE_UNSPECIFIED;
  v1::Token::Role_Parse(absl::StrCat("ROLE_", absl::AsciiStrToUpper(options.role)), &role);
  request.mutable_token()->set_role(role);
  request.mutable_token()->set_subject(options.subject);
  request.mutable_token()->set_description(options.description);
  if (!options.expires_in.empty()) {
    absl::Duration life;
    if (!absl::ParseDuration(options.expires_in, &life) || life <= absl::ZeroDuration()) {
      context.err << "muster: --expires-in '" << options.expires_in
                  << "' is no duration; write for example 30m or 720h\n";
      return base::kExitUsage;
    }
    const timespec time = absl::ToTimespec(context.clock.Now() + life);
    request.mutable_token()->mutable_expire_time()->set_seconds(time.tv_sec);
  }
  v1::CreateTokenResponse response;
  const grpc::Status status = context.client.CreateToken(request, &response);
  if (!status.ok()) return Fail(context, status);
  if (options.json) {
    context.out << ToJson(response) << std::endl;
  } else {
    context.out << response.secret() << std::endl;
  }
  return base::kExitCompleted;
}

int ListTokens(bool json, const Context& context) {
  std::vector<v1::Token> tokens;
  v1::ListTokensRequest request;
  request.set_page_size(1000);
  do {
    v1::ListTokensResponse response;
    const grpc::Status status = context.client.ListTokens(request, &response);
    if (!status.ok()) return Fail(context, status);
    tokens.insert(tokens.end(), response.tokens().begin(), response.tokens().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (json) {
    for (const v1::Token& token : tokens) context.out << ToJson(token) << "\n";
    return base::kExitCompleted;
  }
  const absl::Time now = context.clock.Now();
  std::vector<std::vector<std::string>> rows = {
      {"TOKEN", "ROLE", "FOR", "STATE", "MADE", "BY", "DESCRIPTION"}};
  for (const v1::Token& token : tokens) {
    rows.push_back({token.name(), RoleText(token.role()),
                    token.subject().empty() ? "-" : token.subject(), StateText(token, now),
                    AgeText(token.create_time(), now),
                    token.creator().empty() ? "-" : token.creator(), token.description()});
  }
  context.out << FormatTable(rows);
  return base::kExitCompleted;
}

int RevokeToken(const std::string& token, bool json, const Context& context) {
  v1::RevokeTokenRequest request;
  request.set_name(absl::StartsWith(token, "tokens/") ? token : absl::StrCat("tokens/", token));
  v1::Token revoked;
  const grpc::Status status = context.client.RevokeToken(request, &revoked);
  if (!status.ok()) return Fail(context, status);
  if (json) {
    context.out << ToJson(revoked) << std::endl;
  } else {
    context.out << revoked.name() << " (" << revoked.subject() << ") is revoked" << std::endl;
  }
  return base::kExitCompleted;
}

}  // namespace muster::cli
