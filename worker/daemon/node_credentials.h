#pragma once

#include <grpcpp/security/credentials.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/security/tls_files.h"

namespace muster::worker {

// How a worker shows who it is. All null or empty on a plaintext network.
struct NodeCredentials {
  // For its sessions: TLS, and the secret that the worker has made for itself, kept as node_token
  // (mode 0600) in its state folder. The coordinator learns the digest only, from JoinNode.
  std::shared_ptr<grpc::ChannelCredentials> session;
  std::string digest;
  // For JoinNode: TLS and the join token. Null without one.
  std::shared_ptr<grpc::ChannelCredentials> join;
};

// `tls` names at least the CA, or nothing. InvalidArgument for a join token without TLS, and for
// files that cannot be used; PermissionDenied when others may read node_token.
absl::StatusOr<NodeCredentials> LoadNodeCredentials(const security::TlsFiles& tls,
                                                    const std::filesystem::path& state_folder,
                                                    const std::string& join_token);

}  // namespace muster::worker
