#pragma once

#include <grpcpp/security/credentials.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/security/tls_files.h"

namespace muster::cli {

struct CredentialOptions {
  // ca: of the coordinator's certificate; empty: plaintext.
  security::TlsFiles tls;
  // From --token or MUSTER_TOKEN; empty: from token_file.
  std::string token;
  // Mode 0600; need not exist.
  std::filesystem::path token_file;
};

// What the channel to the coordinator at `address` takes; null: plaintext, without a token.
// InvalidArgument or PermissionDenied when files cannot be used, and for an address beyond this
// machine without TLS.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> LoadCredentials(
    const std::string& address, const CredentialOptions& options);

// ${XDG_CONFIG_HOME:-~/.config}/muster/token; empty without a home.
std::filesystem::path DefaultTokenFile();

}  // namespace muster::cli
