#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace muster::coordinator {

// Lets a machine join with a document that its cloud has signed (on Azure the attested document of
// the instance metadata service) in place of a join token. Called on gRPC threads, several at once.
class NodeAttestor {
 public:
  virtual ~NodeAttestor() = default;
  // The node name that the document's machine may join under. The document must have been asked for
  // with a nonce made of `credential_sha256`, so that whoever copies it can make nothing of it.
  // PermissionDenied, with the reason, for a document that is not the cloud's, is too old, or has
  // another nonce.
  virtual absl::StatusOr<std::string> Verify(const std::string& document,
                                             const std::string& credential_sha256) const = 0;
};

}  // namespace muster::coordinator
