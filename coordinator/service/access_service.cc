#include "coordinator/service/access_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/rpc/errors.h"
#include "common/security/digest.h"
#include "coordinator/service/page_token.h"

namespace muster::coordinator {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpcStatus(status));
  return reactor;
}

absl::Status Invalid(const absl::Status& status) {
  return rpc::Error(status.code(), "INVALID_REQUEST", status.message());
}

void LogChange(absl::string_view what, const internal::TokenRecord& record,
               const std::string& actor) {
  base::Log(base::LogSeverity::kInfo, "access", what,
            {{"token", record.id()},
             {"role", RoleName(record.role())},
             {"subject", record.subject()},
             {"by", actor}});
}

}  // namespace

void AccessServiceImpl::Store(std::vector<internal::TokenRecord> records,
                              std::function<void(const absl::Status&)> done) {
  Writes writes;
  for (const internal::TokenRecord& record : records) writes.tokens[record.id()] = record;
  deps_.state->Store(std::move(writes), [this, records = std::move(records),
                                         done = std::move(done)](const absl::Status& stored) {
    if (stored.ok()) deps_.access->tokens().Put(records);
    done(stored.ok() ? stored
                     : rpc::Error(absl::StatusCode::kUnavailable, "UNAVAILABLE", stored.message()));
  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::CreateToken(grpc::CallbackServerContext* context,
                                                         const v1::CreateTokenRequest* request,
                                                         v1::CreateTokenResponse* reply) {
  const std::string actor = deps_.access->ActorOf(*context);
  const std::string secret = deps_.make_secret();
  const absl::StatusOr<internal::TokenRecord> record =
      deps_.access->tokens().PrepareCreate(request->token(), secret, actor);
  if (!record.ok()) return Answer(context, record.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Store({*record}, [reactor, reply, record = *record, secret, actor](const absl::Status& stored) {
    if (stored.ok()) {
      *reply->mutable_token() = ToToken(record);
      reply->set_secret(secret);
      LogChange("created a token", record, actor);
    }
    reactor->Finish(rpc::ToGrpcStatus(stored));
  });
  return reactor;
}

grpc::ServerUnaryReactor* AccessServiceImpl::ListTokens(grpc::CallbackServerContext* context,
                                                        const v1::ListTokensRequest* request,
                                                        v1::ListTokensResponse* reply) {
  const absl::StatusOr<int> size = PageSize(request->page_size());
  const absl::StatusOr<std::string> after = ReadPageToken("tokens", request->page_token());
  if (!size.ok()) return Answer(context, Invalid(size.status()));
  if (!after.ok()) return Answer(context, Invalid(after.status()));
  bool past = after->empty();
  for (const internal::TokenRecord& record : deps_.access->tokens().List()) {
    if (!past) {
      past = record.id() == *after;
      continue;
    }
    if (reply->tokens_size() == *size) {
      const std::string& last = reply->tokens(*size - 1).name();
      reply->set_next_page_token(
          MakePageToken("tokens", std::string(absl::StripPrefix(last, "tokens/"))));
      break;
    }
    *reply->add_tokens() = ToToken(record);
  }
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AccessServiceImpl::RevokeToken(grpc::CallbackServerContext* context,
                                                         const v1::RevokeTokenRequest* request,
                                                         v1::Token* reply) {
  const std::string actor = deps_.access->ActorOf(*context);
  const absl::StatusOr<internal::TokenRecord> record = deps_.access->tokens().PrepareRevoke(
      std::string(absl::StripPrefix(request->name(), "tokens/")));
  if (!record.ok()) return Answer(context, record.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Store({*record}, [reactor, reply, record = *record, actor](const absl::Status& stored) {
    if (stored.ok()) {
      *reply = ToToken(record);
      LogChange("revoked a token", record, actor);
    }
    reactor->Finish(rpc::ToGrpcStatus(stored));
  });
  return reactor;
}

grpc::ServerUnaryReactor* AccessServiceImpl::JoinNode(grpc::CallbackServerContext* context,
                                                      const v1::JoinNodeRequest* request,
                                                      v1::JoinNodeResponse* reply) {
  if (!deps_.access->required()) {
    return Answer(context, rpc::Error(absl::StatusCode::kFailedPrecondition, "NO_AUTHENTICATION",
                                      "this coordinator asks nobody for a credential"));
  }
  const absl::StatusOr<Caller> joiner = deps_.access->JoinerOf(*context, *request);
  if (!joiner.ok()) return Answer(context, joiner.status());
  absl::StatusOr<TokenTable::Joining> joining =
      deps_.access->tokens().PrepareJoin(*joiner, *request);
  if (!joining.ok()) return Answer(context, joining.status());
  const internal::TokenRecord credential = joining->credential;
  *reply->mutable_credential() = ToToken(credential);
  if (joining->changes.empty()) return Answer(context, absl::OkStatus());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Store(std::move(joining->changes),
        [this, reactor, credential, request, joiner = *joiner](const absl::Status& stored) {
          deps_.access->tokens().FinishJoin(joiner, request->node());
          if (stored.ok()) LogChange("a node joined", credential, credential.creator());
          reactor->Finish(rpc::ToGrpcStatus(stored));
        });
  return reactor;
}

absl::StatusOr<std::string> CreateStoredToken(const v1::Token& wanted, const base::Clock& clock,
                                              StateStore* store) {
  MUSTER_ASSIGN_OR_RETURN(Snapshot stored, store->Load());
  const TokenTable table(std::move(stored.tokens), clock);
  std::string secret = security::MakeSecret();
  MUSTER_ASSIGN_OR_RETURN(const internal::TokenRecord record,
                          table.PrepareCreate(wanted, secret, "muster-coordinator create-token"));
  Writes writes;
  writes.tokens[record.id()] = record;
  MUSTER_RETURN_IF_ERROR(store->Commit(writes));
  return secret;
}

}  // namespace muster::coordinator
