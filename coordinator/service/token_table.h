#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "muster/internal/coordinator_store.pb.h"
#include "muster/v1/access_service.pb.h"

namespace muster::coordinator {

// Who is behind a token.
struct Caller {
  // ROLE_UNSPECIFIED: nobody in particular, where there is no authentication.
  v1::Token::Role role = v1::Token::ROLE_UNSPECIFIED;
  // User or node.
  std::string subject;
  // Of a node.
  std::string node_uid;
  // Id of the token.
  std::string token;
};

// A token that is of no use any more is still listed for so long.
inline constexpr absl::Duration kTokenRetention = absl::Hours(30 * 24);

// The tokens by id, which is the beginning of their digest. Thread-safe. Changes are made in two
// steps, so that nothing is in force before it is stored: Prepare... gives the records to store,
// Put puts them in force.
class TokenTable {
 public:
  TokenTable(std::vector<internal::TokenRecord> records, const base::Clock& clock);

  // Unauthenticated with reason BAD_TOKEN, TOKEN_REVOKED, TOKEN_EXPIRED or JOIN_TOKEN_USED (the
  // last not for `for_join`, where PrepareJoin decides).
  absl::StatusOr<Caller> Find(absl::string_view secret, bool for_join = false) const;
  // The token that the caller came with is still in force.
  bool InForce(const Caller& caller) const;
  // In order of creation.
  std::vector<internal::TokenRecord> List() const;

  // A record for a new secret. BAD_REQUEST for what cannot be (v1::CreateTokenRequest).
  absl::StatusOr<internal::TokenRecord> PrepareCreate(const v1::Token& wanted,
                                                      const std::string& secret,
                                                      const std::string& creator) const;
  // TOKEN_NOT_FOUND. Revoking twice keeps the first time.
  absl::StatusOr<internal::TokenRecord> PrepareRevoke(const std::string& id) const;

  struct Joining {
    internal::TokenRecord credential;
    // To be stored, the credential among them; empty when the same worker repeats its call.
    std::vector<internal::TokenRecord> changes;
  };
  // What makes the node join. `joiner` holds a join token, or has none (token is empty) and was
  // attested. With changes, token and node name are held until FinishJoin, so that two workers
  // cannot use one of them at a time. BAD_REQUEST; JOIN_TOKEN_USED; WRONG_NODE for a join token of
  // another node; NODE_HAS_CREDENTIAL when the name belongs to another worker.
  absl::StatusOr<Joining> PrepareJoin(const Caller& joiner, const v1::JoinNodeRequest& request);

  // Drops tokens that have been revoked, expired or (join tokens) used for kTokenRetention. Their
  // ids, to be removed from the store; a token that stays there is dropped again after a restart.
  std::set<std::string> Forget();

  void Put(const std::vector<internal::TokenRecord>& records);
  // What PrepareJoin has given is in force (see Put), or could not be stored.
  void FinishJoin(const Caller& joiner, const std::string& node);

 private:
  // Null when there is none.
  const internal::TokenRecord* FindId(const std::string& id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckInForce(const internal::TokenRecord& record) const;

  const base::Clock& clock_;
  mutable absl::Mutex mutex_;
  std::map<std::string, internal::TokenRecord> records_ ABSL_GUARDED_BY(mutex_);
  // Ids of join tokens whose use, and "node " and names of nodes whose joining is being stored.
  std::set<std::string> joining_ ABSL_GUARDED_BY(mutex_);
};

v1::Token ToToken(const internal::TokenRecord& record);

}  // namespace muster::coordinator
