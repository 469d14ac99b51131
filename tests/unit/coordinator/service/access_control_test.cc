// Tokens, roles, rates and the permission table, without a network.
#include "coordinator/service/access_control.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/rpc/errors.h"
#include "common/security/digest.h"
#include "muster/v1/access_service.pb.h"
#include "muster/v1/job_service.pb.h"
#include "muster/v1/node_service.pb.h"
#include "muster/v1/worker_service.pb.h"
#include "tests/support/fake_clock.h"

namespace muster::coordinator {
namespace {

using ::testing::HasSubstr;
using v1::Token;

TEST(PermissionTableTest, HasEveryRpcAndNothingElse) {
  std::set<std::string> rpcs;
  for (const google::protobuf::FileDescriptor* file :
       {v1::Token::descriptor()->file(), v1::CreateJobRequest::descriptor()->file(),
        v1::GetNodeRequest::descriptor()->file(), v1::WorkerMessage::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const std::string name =
            absl::StrCat(file->service(s)->full_name(), "/", file->service(s)->method(m)->name());
        EXPECT_TRUE(RpcPermission(name).has_value()) << name << " has no entry in access_table.cc";
        rpcs.insert(name);
      }
    }
  }
  for (const std::string& name : ListedRpcs())
    EXPECT_EQ(rpcs.count(name), 1u) << name << " is none";
  EXPECT_FALSE(RpcPermission("muster.v1.JobService/DropAll").has_value());
  EXPECT_FALSE(HttpPermission("/secret").has_value());
}

TEST(PermissionTableTest, RolesAllowWhatTheyShould) {
  const auto allowed = [](Token::Role needed) {
    std::string roles;
    for (const auto role : {Token::ROLE_UNSPECIFIED, Token::ROLE_VIEW, Token::ROLE_SUBMIT,
                            Token::ROLE_ADMIN, Token::ROLE_NODE, Token::ROLE_JOIN}) {
      if (Allows({needed, Permission::Cost::kRead}, role))
        absl::StrAppend(&roles, RoleName(role), " ");
    }
    return roles;
  };
  EXPECT_EQ(allowed(Token::ROLE_VIEW), "view submit admin ");
  EXPECT_EQ(allowed(Token::ROLE_SUBMIT), "submit admin ");
  EXPECT_EQ(allowed(Token::ROLE_ADMIN), "admin ");
  EXPECT_EQ(allowed(Token::ROLE_NODE), "node ");
  EXPECT_EQ(allowed(Token::ROLE_JOIN), "join ");
  EXPECT_EQ(allowed(Token::ROLE_UNSPECIFIED), "none view submit admin node join ");
}

TEST(PermissionTableTest, NodesSeeOnlyJobsByName) {
  std::set<std::string> of_nodes;
  for (const std::string& name : ListedRpcs()) {
    if (Allows(*RpcPermission(name), Token::ROLE_NODE)) of_nodes.insert(name);
  }
  EXPECT_THAT(of_nodes, ::testing::ElementsAre("muster.v1.JobService/GetJob",
                                               "muster.v1.WorkerService/Session"));
  for (const std::string& pattern : ListedRoutes()) {
    if (pattern == "/healthz") continue;
    EXPECT_FALSE(Allows(*HttpPermission(pattern), Token::ROLE_NODE)) << pattern;
  }
}

TEST(AuthorizationTest, GoodOnes) {
  EXPECT_EQ(*TokenFromAuthorization("Bearer muster-12ab"), "muster-12ab");
  EXPECT_EQ(*TokenFromAuthorization("bearer muster-12ab"), "muster-12ab");
  EXPECT_EQ(*TokenFromAuthorization("Basic " + absl::Base64Escape("me:muster-12ab")),
            "muster-12ab");
  EXPECT_EQ(*TokenFromAuthorization("Basic " + absl::Base64Escape(":muster-12ab")), "muster-12ab");
}

TEST(AuthorizationTest, BrokenOnes) {
  const std::string secret = "muster-12ab";
  std::vector<std::string> broken = {"",
                                     " ",
                                     "Bearer",
                                     "Bearer ",
                                     "Bearer  " + secret,
                                     secret,
                                     " Bearer " + secret,
                                     "Bearer " + secret + " ",
                                     "Bearer " + secret + " x",
                                     "Bearer\t" + secret,
                                     "Bearer:" + secret,
                                     "Bearer=" + secret,
                                     "Token " + secret,
                                     "Digest " + secret,
                                     "Bearer " + secret + "\n",
                                     std::string("Bearer ") + secret + '\0',
                                     "Bearer \xff\xfe",
                                     "Bearer " + secret + ",Bearer x",
                                     "Bearer \"" + secret + "\"",
                                     "Basic " + secret,
                                     "Basic",
                                     "Basic ",
                                     "Basic " + absl::Base64Escape(secret),
                                     "Basic " + absl::Base64Escape("me:"),
                                     "Basic " + absl::Base64Escape("me:a:b"),
                                     "Basic " + absl::Base64Escape("me:\n"),
                                     "Basic ====",
                                     "Bearer " + std::string(201, 'a'),
                                     "Bearer " + std::string(100'000, 'a'),
                                     "Bearer ../../etc/passwd",
                                     "Bearer ' OR 1=1 --"};
  // And every prefix of a good one that ends before the token.
  for (size_t size = 0; size <= 7; ++size) broken.push_back(("Bearer " + secret).substr(0, size));
  for (const std::string& value : broken) {
    const auto token = TokenFromAuthorization(value);
    ASSERT_FALSE(token.ok()) << absl::CEscape(value.substr(0, 80));
    EXPECT_EQ(token.status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(rpc::ErrorReason(token.status()), "BAD_AUTHORIZATION");
    EXPECT_THAT(std::string(token.status().message()), ::testing::Not(HasSubstr(secret)));
  }
}

class TokensTest : public ::testing::Test {
 protected:
  // The secret of a token that is in force.
  std::string Make(Token::Role role, const std::string& subject,
                   absl::Duration life = absl::ZeroDuration()) {
    Token wanted;
    wanted.set_role(role);
    wanted.set_subject(subject);
    if (life != absl::ZeroDuration()) {
      wanted.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(clock_.Now() + life));
    }
    const std::string secret = security::MakeSecret();
    const auto record = tokens().PrepareCreate(wanted, secret, "root");
    EXPECT_TRUE(record.ok()) << record.status();
    if (record.ok()) tokens().Put({*record});
    return secret;
  }
  std::string Reason(const std::string& pattern, const std::string& secret) {
    return rpc::ErrorReason(access_.AdmitHttp(pattern, secret.empty() ? "" : "Bearer " + secret));
  }
  TokenTable& tokens() { return access_.tokens(); }

  static v1::JoinNodeRequest Join(const std::string& node, const std::string& uid,
                                  const std::string& secret) {
    v1::JoinNodeRequest request;
    request.set_node(node);
    request.set_node_uid(uid);
    request.set_credential_sha256(security::Sha256(secret));
    return request;
  }
  absl::Status TryJoin(const std::string& join_token, const v1::JoinNodeRequest& request) {
    const auto joiner = tokens().Find(join_token, /*for_join=*/true);
    if (!joiner.ok()) return joiner.status();
    const auto joining = tokens().PrepareJoin(*joiner, request);
    if (!joining.ok()) return joining.status();
    tokens().Put(joining->changes);
    tokens().FinishJoin(*joiner, request.node());
    return absl::OkStatus();
  }
  std::string JoinReason(const std::string& join_token, const v1::JoinNodeRequest& request) {
    return rpc::ErrorReason(TryJoin(join_token, request));
  }

  testing::FakeClock clock_;
  AccessControl access_{{.required = true, .writes = {1, 2}, .reads = {10, 20}}, {}, clock_};
};

TEST_F(TokensTest, GoodUntilRevokedOrExpired) {
  const std::string forever = Make(Token::ROLE_VIEW, "alice");
  const std::string hour = Make(Token::ROLE_VIEW, "bob", absl::Hours(1));
  EXPECT_EQ(Reason("/v1/jobs", forever), "");
  EXPECT_EQ(Reason("/v1/jobs", hour), "");
  EXPECT_EQ(Reason("/v1/jobs", ""), "NO_TOKEN");
  EXPECT_EQ(Reason("/v1/jobs", security::MakeSecret()), "BAD_TOKEN");
  EXPECT_EQ(Reason("/v1/jobs", forever.substr(0, forever.size() - 1)), "BAD_TOKEN");
  EXPECT_EQ(Reason("/healthz", ""), "");
  EXPECT_EQ(Reason("/not/in/the/table", forever), "NOT_IN_TABLE");

  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(Reason("/v1/jobs", hour), "TOKEN_EXPIRED");
  EXPECT_EQ(Reason("/v1/jobs", forever), "");
  const Caller alice = *tokens().Find(forever);
  EXPECT_TRUE(tokens().InForce(alice));
  tokens().Put({*tokens().PrepareRevoke(alice.token)});
  EXPECT_EQ(Reason("/v1/jobs", forever), "TOKEN_REVOKED");
  EXPECT_FALSE(tokens().InForce(alice));
  EXPECT_EQ(rpc::ErrorReason(tokens().PrepareRevoke("000000000000").status()), "TOKEN_NOT_FOUND");
}

TEST_F(TokensTest, OnlyDigestsAreKept) {
  const std::string secret = Make(Token::ROLE_ADMIN, "alice");
  const auto records = tokens().List();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].sha256(), security::Sha256(secret));
  EXPECT_THAT(records[0].DebugString(), ::testing::Not(HasSubstr(secret.substr(7, 16))));
  EXPECT_THAT(ToToken(records[0]).DebugString(), ::testing::Not(HasSubstr("sha256")));
  EXPECT_EQ(ToToken(records[0]).creator(), "root");
}

TEST_F(TokensTest, WhatCannotBeIsRefused) {
  const auto problem = [&](Token::Role role, const std::string& subject, absl::Duration life) {
    Token wanted;
    wanted.set_role(role);
    wanted.set_subject(subject);
    wanted.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(clock_.Now() + life));
    const auto violations = rpc::FieldViolations(
        tokens().PrepareCreate(wanted, security::MakeSecret(), "root").status());
    return violations.empty() ? "" : violations[0].field;
  };
  EXPECT_EQ(problem(Token::ROLE_UNSPECIFIED, "alice", absl::Hours(1)), "token.role");
  EXPECT_EQ(problem(Token::ROLE_NODE, "w1", absl::Hours(1)), "token.role");
  EXPECT_EQ(problem(Token::ROLE_VIEW, "", absl::Hours(1)), "token.subject");
  EXPECT_EQ(problem(Token::ROLE_VIEW, "a b", absl::Hours(1)), "token.subject");
  EXPECT_EQ(problem(Token::ROLE_VIEW, "x\nI forged a log line", absl::Hours(1)), "token.subject");
  EXPECT_EQ(problem(Token::ROLE_VIEW, "alice", -absl::Hours(1)), "token.expire_time");
  EXPECT_EQ(problem(Token::ROLE_JOIN, "", absl::Hours(25)), "token.expire_time");
  EXPECT_EQ(problem(Token::ROLE_JOIN, "", absl::Hours(24)), "");
}

TEST_F(TokensTest, JoinTokenWorksOnce) {
  const std::string join = Make(Token::ROLE_JOIN, "");
  const std::string secret = security::MakeSecret();
  EXPECT_EQ(TryJoin(join, Join("w1", "uid-1", secret)), absl::OkStatus());
  const Caller node = *tokens().Find(secret);
  EXPECT_EQ(node.role, Token::ROLE_NODE);
  EXPECT_EQ(node.subject, "w1");
  EXPECT_EQ(node.node_uid, "uid-1");

  // The same worker, whose first answer was lost.
  EXPECT_EQ(TryJoin(join, Join("w1", "uid-1", secret)), absl::OkStatus());
  // Anybody else.
  EXPECT_EQ(JoinReason(join, Join("w2", "uid-2", security::MakeSecret())), "JOIN_TOKEN_USED");
  EXPECT_EQ(JoinReason(join, Join("w1", "uid-1", security::MakeSecret())), "JOIN_TOKEN_USED");
  EXPECT_EQ(JoinReason(join, Join("w2", "uid-1", secret)), "JOIN_TOKEN_USED");
  // It opens nothing else, used or not.
  EXPECT_EQ(Reason("/v1/jobs", join), "JOIN_TOKEN_USED");
  EXPECT_EQ(Reason("/v1/jobs", Make(Token::ROLE_JOIN, "")), "ROLE_TOO_LOW");
}

TEST_F(TokensTest, JoinTokenIsHeldWhileItsUseIsStored) {
  const std::string join = Make(Token::ROLE_JOIN, "");
  const Caller joiner = *tokens().Find(join, true);
  ASSERT_TRUE(tokens().PrepareJoin(joiner, Join("w1", "uid-1", security::MakeSecret())).ok());
  EXPECT_EQ(JoinReason(join, Join("w2", "uid-2", security::MakeSecret())), "UNAVAILABLE");
  // Nor can another token make the same name a second worker's meanwhile.
  EXPECT_EQ(JoinReason(Make(Token::ROLE_JOIN, ""), Join("w1", "uid-2", security::MakeSecret())),
            "UNAVAILABLE");
  // The store failed.
  tokens().FinishJoin(joiner, "w1");
  EXPECT_EQ(JoinReason(join, Join("w2", "uid-2", security::MakeSecret())), "");
}

TEST_F(TokensTest, JoinTokensExpireAndMayNameANode) {
  const std::string join = Make(Token::ROLE_JOIN, "");
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(JoinReason(join, Join("w1", "uid-1", security::MakeSecret())), "TOKEN_EXPIRED");
  const std::string bound = Make(Token::ROLE_JOIN, "w1");
  EXPECT_EQ(JoinReason(bound, Join("w2", "uid-1", security::MakeSecret())), "WRONG_NODE");
  EXPECT_EQ(JoinReason(bound, Join("w1", "uid-1", security::MakeSecret())), "");
}

TEST_F(TokensTest, ForgottenLongAfterTheirEnd) {
  const std::string forever = Make(Token::ROLE_VIEW, "alice");
  const std::string hour = Make(Token::ROLE_VIEW, "bob", absl::Hours(1));
  const std::string revoked = Make(Token::ROLE_VIEW, "carol");
  const std::string join = Make(Token::ROLE_JOIN, "");
  const std::string hour_id = tokens().Find(hour)->token;
  const std::string revoked_id = tokens().Find(revoked)->token;
  const std::string join_id = tokens().Find(join, /*for_join=*/true)->token;
  ASSERT_TRUE(TryJoin(join, Join("w1", "uid-1", security::MakeSecret())).ok());
  tokens().Put({*tokens().PrepareRevoke(revoked_id)});

  clock_.Advance(kTokenRetention - absl::Seconds(1));
  EXPECT_THAT(tokens().Forget(), ::testing::IsEmpty());
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(tokens().Forget(), ::testing::UnorderedElementsAre(revoked_id, join_id));
  clock_.Advance(absl::Hours(1));
  EXPECT_THAT(tokens().Forget(), ::testing::UnorderedElementsAre(hour_id));
  EXPECT_EQ(Reason("/v1/jobs", hour), "BAD_TOKEN");
  EXPECT_EQ(Reason("/v1/jobs", forever), "");
  // The other one is the node's credential.
  EXPECT_EQ(tokens().List().size(), 2u);
}

TEST_F(TokensTest, NodeNameBelongsToOneWorker) {
  const std::string first = security::MakeSecret();
  ASSERT_TRUE(TryJoin(Make(Token::ROLE_JOIN, ""), Join("w1", "uid-1", first)).ok());
  EXPECT_EQ(JoinReason(Make(Token::ROLE_JOIN, ""), Join("w1", "uid-2", security::MakeSecret())),
            "NODE_HAS_CREDENTIAL");
  // The same worker may take another secret; the old one ends.
  const std::string second = security::MakeSecret();
  EXPECT_EQ(JoinReason(Make(Token::ROLE_JOIN, ""), Join("w1", "uid-1", second)), "");
  EXPECT_EQ(rpc::ErrorReason(tokens().Find(first).status()), "TOKEN_REVOKED");
  EXPECT_TRUE(tokens().Find(second).ok());
  EXPECT_EQ(JoinReason(Make(Token::ROLE_JOIN, ""), Join("w1", "uid-1", first)), "CREDENTIAL_TAKEN");
  // Revoked, the name is free.
  tokens().Put({*tokens().PrepareRevoke(tokens().Find(second)->token)});
  EXPECT_EQ(JoinReason(Make(Token::ROLE_JOIN, ""), Join("w1", "uid-2", security::MakeSecret())),
            "");
}

TEST_F(TokensTest, RatesAreOfEachUser) {
  const std::string alice = Make(Token::ROLE_VIEW, "alice");
  const std::string alice_too = Make(Token::ROLE_VIEW, "alice");
  const std::string bob = Make(Token::ROLE_VIEW, "bob");
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(Reason("/v1/jobs", i % 2 == 0 ? alice : alice_too), "") << i;
  }
  const absl::Status limited = access_.AdmitHttp("/v1/jobs", "Bearer " + alice);
  EXPECT_EQ(limited.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rpc::ErrorReason(limited), "RATE_LIMITED");
  EXPECT_THAT(std::string(limited.message()), HasSubstr("'alice'; try again in 100ms"));
  EXPECT_EQ(Reason("/v1/jobs", bob), "");
  clock_.Advance(absl::Milliseconds(100));
  EXPECT_EQ(Reason("/v1/jobs", alice), "");
  EXPECT_EQ(Reason("/v1/jobs", alice), "RATE_LIMITED");
  clock_.Advance(absl::Hours(1));
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Reason("/v1/jobs", alice), "") << "more than the burst";
  EXPECT_EQ(Reason("/v1/jobs", alice), "RATE_LIMITED");
}

TEST(RateLimiterTest, ForgetsWhoIsSilent) {
  testing::FakeClock clock;
  RateLimiter limiter({1, 1}, clock);
  for (int i = 0; i < 5000; ++i) {
    EXPECT_EQ(limiter.Take(absl::StrCat("user", i)), absl::ZeroDuration());
    clock.Advance(absl::Milliseconds(10));
  }
  EXPECT_GT(limiter.Take("user4999"), absl::ZeroDuration());
  EXPECT_EQ(limiter.Take("user0"), absl::ZeroDuration());
}

}  // namespace
}  // namespace muster::coordinator
