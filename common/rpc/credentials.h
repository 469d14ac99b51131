#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"

#include "common/security/tls_files.h"

namespace muster::rpc {

// TLS of a server: its certificate and key, and, with a CA, mutual TLS: every client must show a
// certificate of it. Changed files are used for new connections after a second or two; those that
// are there go on. InvalidArgument when the files cannot be used now.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TlsServerCredentials(
    const security::TlsFiles& files);

// TLS of a client: the CA that the server's certificate must be of (required), the certificate that
// it shows itself, and a bearer token that goes with each call; both may be empty. The server's
// certificate must name the address that is dialled. Reloads like the server's.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsChannelCredentials(
    const security::TlsFiles& files, const std::string& token);

}  // namespace muster::rpc
