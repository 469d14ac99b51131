#include "cli/credentials.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/endpoint.h"
#include "common/base/status_macros.h"
#include "common/rpc/credentials.h"
#include "common/security/secret_file.h"

namespace muster::cli {
namespace {

// Of one address, or of several with commas.
bool StaysHere(const std::string& addresses) {
  const std::vector<std::string> all = absl::StrSplit(addresses, ',');
  return std::all_of(all.begin(), all.end(), [](const std::string& address) {
    const absl::StatusOr<base::Endpoint> endpoint = base::ParseEndpoint(address);
    return absl::StartsWith(address, "unix:") || (endpoint.ok() && endpoint->IsLoopback());
  });
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> LoadCredentials(
    const std::string& address, const CredentialOptions& options) {
  if (options.tls.empty()) {
    if (options.token.empty() || StaysHere(address)) return nullptr;
    return absl::InvalidArgumentError(
        absl::StrCat("a token would travel to ", address,
                     " in plaintext: give the coordinator's CA (--tls-ca or MUSTER_TLS_CA)"));
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
