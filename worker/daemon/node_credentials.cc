#include "worker/daemon/node_credentials.h"

#include "absl/status/status.h"

#include "common/base/status_macros.h"
#include "common/rpc/credentials.h"
#include "common/security/digest.h"
#include "common/security/secret_file.h"

namespace muster::worker {
namespace {

absl::StatusOr<std::string> ReadOrMakeSecret(const std::filesystem::path& file) {
  absl::StatusOr<std::string> secret = security::ReadSecretFile(file);
  if (!absl::IsNotFound(secret.status())) return secret;
  const std::string made = security::MakeSecret();
  MUSTER_RETURN_IF_ERROR(security::WriteSecretFile(file, made));
  return made;
}

}  // namespace

absl::StatusOr<NodeCredentials> LoadNodeCredentials(const security::TlsFiles& tls,
                                                    const std::filesystem::path& state_folder,
                                                    const std::string& join_token) {
  NodeCredentials credentials;
  if (tls.empty()) {
    if (join_token.empty()) return credentials;
    return absl::InvalidArgumentError(
        "a join token is sent over TLS only: give the coordinator's CA too (--tls-ca)");
  }
  MUSTER_ASSIGN_OR_RETURN(const std::string secret, ReadOrMakeSecret(state_folder / "node_token"));
  MUSTER_ASSIGN_OR_RETURN(credentials.session, rpc::TlsChannelCredentials(tls, secret));
  credentials.digest = security::Sha256(secret);
  if (!join_token.empty()) {
    MUSTER_ASSIGN_OR_RETURN(credentials.join, rpc::TlsChannelCredentials(tls, join_token));
  }
  return credentials;
}

}  // namespace muster::worker
