#include "cli/credentials.h"

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/endpoint.h"
#include "common/base/status_macros.h"
#include "common/rpc/credentials.h"
#include "common/security/secret_file.h"

namespace muster::cli {

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> LoadCredentials(
    const std::string& address, const CredentialOptions& options) {
  if (options.tls.empty()) {
    const std::string beyond = base::FirstBeyondLoopback(address);
    if (beyond.empty()) return nullptr;
    return absl::InvalidArgumentError(
        absl::StrCat(beyond,
                     " is not a loopback address and is not spoken to in plaintext: give the "
                     "coordinator's CA (--tls-ca or MUSTER_TLS_CA)"));
  }
  std::string token = options.token;
  if (token.empty() && !options.token_file.empty()) {
    absl::StatusOr<std::string> read = security::ReadSecretFile(options.token_file);
    if (!read.ok() && !absl::IsNotFound(read.status())) return read.status();
    token = std::move(read).value_or("");
  }
  return rpc::TlsChannelCredentials(options.tls, token);
}

std::filesystem::path DefaultTokenFile() {
  if (const char* folder = std::getenv("XDG_CONFIG_HOME"); folder != nullptr && *folder != '\0') {
    return std::filesystem::path(folder) / "muster" / "token";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return std::filesystem::path(home) / ".config" / "muster" / "token";
}

}  // namespace muster::cli
