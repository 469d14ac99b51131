#include "coordinator/service/token_table.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/rpc/errors.h"
#include "common/security/digest.h"
#include "coordinator/core/timestamps.h"
#include "coordinator/service/access_table.h"

namespace muster::coordinator {
namespace {

using internal::TokenRecord;
using v1::Token;

constexpr size_t kIdBytes = 6;
constexpr size_t kDigestBytes = 32;
constexpr absl::Duration kJoinTokenLife = absl::Hours(1);
constexpr absl::Duration kLongestJoinTokenLife = absl::Hours(24);
constexpr size_t kLongestText = 200;

std::string IdOf(absl::string_view digest) {
  return absl::BytesToHexString(digest.substr(0, kIdBytes));
}

absl::Status Unauthenticated(absl::string_view reason, absl::string_view message) {
  return rpc::Error(absl::StatusCode::kUnauthenticated, reason, message);
}

// Names of users and nodes: what is safe in a log line and a metric label.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' ||
           c == '@';
  });
}

constexpr char kNameRule[] = "must be 1 to 63 letters, digits and '-', '_', '.', '@'";

std::string NodeKey(const std::string& node) { return absl::StrCat("node ", node); }

TokenRecord MakeRecord(const std::string& digest, Token::Role role, const std::string& subject,
                       const std::string& creator, absl::Time now) {
  TokenRecord record;
  record.set_id(IdOf(digest));
  record.set_sha256(digest);
  record.set_role(role);
  record.set_subject(subject);
  record.set_creator(creator);
  *record.mutable_create_time() = ToTimestamp(now);
  return record;
}

}  // namespace

TokenTable::TokenTable(std::vector<TokenRecord> records, const base::Clock& clock) : clock_(clock) {
  absl::MutexLock lock(&mutex_);
  for (TokenRecord& record : records) {
    const std::string id = record.id();
    records_[id] = std::move(record);
  }
}

const TokenRecord* TokenTable::FindId(const std::string& id) const {
  auto it = records_.find(id);
  return it == records_.end() ? nullptr : &it->second;
}

absl::Status TokenTable::CheckInForce(const TokenRecord& record) const {
  if (record.has_revoke_time()) {
    return Unauthenticated("TOKEN_REVOKED", "this token was revoked; ask an admin for another");
  }
  if (record.has_expire_time() && FromTimestamp(record.expire_time()) <= clock_.Now()) {
    return Unauthenticated("TOKEN_EXPIRED", "this token has expired; ask an admin for another");
  }
  return absl::OkStatus();
}

absl::StatusOr<Caller> TokenTable::Find(absl::string_view secret, bool for_join) const {
  const std::string digest = security::Sha256(secret);
  absl::MutexLock lock(&mutex_);
  const TokenRecord* record = FindId(IdOf(digest));
  if (record == nullptr || !security::EqualInConstantTime(record->sha256(), digest)) {
    return Unauthenticated(
        "BAD_TOKEN", "this coordinator does not know the token; is it one of another cluster?");
  }
  const absl::Status in_force = CheckInForce(*record);
  if (!in_force.ok()) return in_force;
  if (record->has_use_time() && !for_join) {
    return Unauthenticated("JOIN_TOKEN_USED",
                           "this join token was used; make another: muster node-token create");
  }
  return Caller{record->role(), record->subject(), record->node_uid(), record->id()};
}

bool TokenTable::InForce(const Caller& caller) const {
  absl::MutexLock lock(&mutex_);
  const TokenRecord* record = FindId(caller.token);
  return record != nullptr && CheckInForce(*record).ok();
}

std::vector<TokenRecord> TokenTable::List() const {
  std::vector<TokenRecord> records;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [id, record] : records_) records.push_back(record);
  }
  std::sort(records.begin(), records.end(), [](const TokenRecord& a, const TokenRecord& b) {
    const absl::Time at = FromTimestamp(a.create_time());
    const absl::Time bt = FromTimestamp(b.create_time());
    return at != bt ? at < bt : a.id() < b.id();
  });
  return records;
}

absl::StatusOr<TokenRecord> TokenTable::PrepareCreate(const Token& wanted,
                                                      const std::string& secret,
                                                      const std::string& creator) const {
  const absl::Time now = clock_.Now();
  const bool join = wanted.role() == Token::ROLE_JOIN;
  std::vector<rpc::FieldViolation> violations;
  if (!join && wanted.role() != Token::ROLE_VIEW && wanted.role() != Token::ROLE_SUBMIT &&
      wanted.role() != Token::ROLE_ADMIN) {
    violations.push_back(
        {"token.role", "must be view, submit or admin for a user, or join for a node"});
  }
  if (!(join && wanted.subject().empty()) && !IsPlainName(wanted.subject())) {
    violations.push_back({"token.subject", kNameRule});
  }
  if (wanted.description().size() > kLongestText) {
    violations.push_back({"token.description", "longer than 200 bytes"});
  }
  const absl::Time expires = wanted.has_expire_time() ? FromTimestamp(wanted.expire_time())
                             : join                   ? now + kJoinTokenLife
                                                      : absl::InfiniteFuture();
  if (expires <= now) violations.push_back({"token.expire_time", "lies in the past"});
  if (join && expires > now + kLongestJoinTokenLife) {
    violations.push_back({"token.expire_time", "a join token may live for a day at most"});
  }
  if (!violations.empty()) return rpc::BadRequestError(violations);
  TokenRecord record =
      MakeRecord(security::Sha256(secret), wanted.role(), wanted.subject(), creator, now);
  record.set_description(wanted.description());
  if (expires != absl::InfiniteFuture()) *record.mutable_expire_time() = ToTimestamp(expires);
  absl::MutexLock lock(&mutex_);
  if (FindId(record.id()) != nullptr) {
    return rpc::Error(absl::StatusCode::kUnavailable, "UNAVAILABLE",
                      "two tokens drew the same id; try again");
  }
  return record;
}

absl::StatusOr<TokenRecord> TokenTable::PrepareRevoke(const std::string& id) const {
  absl::MutexLock lock(&mutex_);
  const TokenRecord* found = FindId(id);
  if (found == nullptr) {
    return rpc::Error(absl::StatusCode::kNotFound, "TOKEN_NOT_FOUND",
                      absl::StrCat("there is no token '", id, "'"));
  }
  TokenRecord record = *found;
  if (!record.has_revoke_time()) *record.mutable_revoke_time() = ToTimestamp(clock_.Now());
  return record;
}

absl::StatusOr<TokenTable::Joining> TokenTable::PrepareJoin(const Caller& joiner,
                                                            const v1::JoinNodeRequest& request) {
  std::vector<rpc::FieldViolation> violations;
  if (!IsPlainName(request.node())) violations.push_back({"node", kNameRule});
  if (!IsPlainName(request.node_uid())) violations.push_back({"node_uid", kNameRule});
  if (request.credential_sha256().size() != kDigestBytes) {
    violations.push_back({"credential_sha256", "must be the 32 bytes of a SHA-256"});
  }
  if (!violations.empty()) return rpc::BadRequestError(violations);

  const absl::Time now = clock_.Now();
  const std::string credential_id = IdOf(request.credential_sha256());
  absl::MutexLock lock(&mutex_);
  // Null when it was attested.
  const TokenRecord* join = FindId(joiner.token);
  if (!joiner.subject.empty() && joiner.subject != request.node()) {
    return rpc::Error(absl::StatusCode::kPermissionDenied, "WRONG_NODE",
                      absl::StrCat("this ", join != nullptr ? "join token" : "attestation",
                                   " is for node ", joiner.subject, ", not for ", request.node()));
  }
  if (joining_.count(joiner.token) > 0 || joining_.count(NodeKey(request.node())) > 0) {
    return rpc::Error(absl::StatusCode::kUnavailable, "UNAVAILABLE",
                      "this join token or node name is being used; try again");
  }
  const TokenRecord* same = FindId(credential_id);
  const bool is_same = same != nullptr && same->sha256() == request.credential_sha256() &&
                       same->role() == Token::ROLE_NODE && same->subject() == request.node() &&
                       same->node_uid() == request.node_uid() && !same->has_revoke_time();
  if (join == nullptr && is_same) return Joining{*same, {}};
  if (join != nullptr && join->has_use_time()) {
    // The answer to the first try was lost.
    if (is_same && join->used_for() == credential_id) return Joining{*same, {}};
    return Unauthenticated("JOIN_TOKEN_USED",
                           "this join token was used; make another: muster node-token create");
  }
  if (same != nullptr && !is_same) {
    return rpc::Error(absl::StatusCode::kAlreadyExists, "CREDENTIAL_TAKEN",
                      "this credential was revoked, or is another node's; remove node_token from "
                      "the worker's state folder and join again");
  }
  std::vector<TokenRecord> records = {
      is_same
          ? *same
          : MakeRecord(request.credential_sha256(), Token::ROLE_NODE, request.node(),
                       join != nullptr ? absl::StrCat("tokens/", join->id()) : "attestation", now)};
  records[0].set_node_uid(request.node_uid());
  for (const auto& [id, other] : records_) {
    if (other.role() != Token::ROLE_NODE || other.subject() != request.node() ||
        other.has_revoke_time() || id == credential_id) {
      continue;
    }
    if (other.node_uid() != request.node_uid()) {
      return rpc::Error(
          absl::StatusCode::kAlreadyExists, "NODE_HAS_CREDENTIAL",
          absl::StrCat("node ", request.node(), " has joined with another state folder; take ",
                       "another --name, or first revoke its credential: muster token revoke ", id));
    }
    records.push_back(other);
    *records.back().mutable_revoke_time() = ToTimestamp(now);
  }
  if (join != nullptr) {
    records.push_back(*join);
    *records.back().mutable_use_time() = ToTimestamp(now);
    records.back().set_used_for(credential_id);
    joining_.insert(join->id());
  }
  joining_.insert(NodeKey(request.node()));
  return Joining{records[0], records};
}

void TokenTable::Put(const std::vector<TokenRecord>& records) {
  absl::MutexLock lock(&mutex_);
  for (const TokenRecord& record : records) records_[record.id()] = record;
}

std::set<std::string> TokenTable::Forget() {
  const absl::Time long_ago = clock_.Now() - kTokenRetention;
  const auto since = [&](bool happened, const google::protobuf::Timestamp& time) {
    return happened && FromTimestamp(time) <= long_ago;
  };
  std::set<std::string> forgotten;
  absl::MutexLock lock(&mutex_);
  for (auto it = records_.begin(); it != records_.end();) {
    const TokenRecord& record = it->second;
    const bool old = since(record.has_revoke_time(), record.revoke_time()) ||
                     since(record.has_expire_time(), record.expire_time()) ||
                     since(record.has_use_time(), record.use_time());
    if (old) forgotten.insert(it->first);
    it = old ? records_.erase(it) : std::next(it);
  }
  return forgotten;
}

void TokenTable::FinishJoin(const Caller& joiner, const std::string& node) {
  absl::MutexLock lock(&mutex_);
  joining_.erase(joiner.token);
  joining_.erase(NodeKey(node));
}

Token ToToken(const TokenRecord& record) {
  Token token;
  token.set_name(absl::StrCat("tokens/", record.id()));
  token.set_role(record.role());
  token.set_subject(record.subject());
  token.set_description(record.description());
  token.set_creator(record.creator());
  *token.mutable_create_time() = record.create_time();
  if (record.has_expire_time()) *token.mutable_expire_time() = record.expire_time();
  if (record.has_revoke_time()) *token.mutable_revoke_time() = record.revoke_time();
  if (record.has_use_time()) *token.mutable_use_time() = record.use_time();
  return token;
}

}  // namespace muster::coordinator
