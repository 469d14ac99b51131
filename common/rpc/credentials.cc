#include "common/rpc/credentials.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

#include "common/base/status_macros.h"

namespace muster::rpc {
namespace {

constexpr unsigned kReloadSeconds = 1;

std::shared_ptr<grpc::experimental::CertificateProviderInterface> Watch(
    const security::TlsFiles& files) {
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key.string(), files.certificate.string(), files.ca.string(), kReloadSeconds);
}

class BearerToken : public grpc::MetadataCredentialsPlugin {
 public:
  explicit BearerToken(const std::string& token) : value_(absl::StrCat("Bearer ", token)) {}

  bool IsBlocking() const override { return false; }
  const char* GetType() const override { return "BearerToken"; }
  grpc::string DebugString() override { return "a bearer token"; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace("authorization", value_);
    return grpc::Status::OK;
  }

 private:
  const std::string value_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TlsServerCredentials(
    const security::TlsFiles& files) {
  if (files.certificate.empty()) {
    return absl::InvalidArgumentError("a TLS server needs a certificate and its private key");
  }
  MUSTER_RETURN_IF_ERROR(security::CheckTlsFiles(files));
  grpc::experimental::TlsServerCredentialsOptions options(Watch(files));
  options.watch_identity_key_cert_pairs();
  if (!files.ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsChannelCredentials(
    const security::TlsFiles& files, const std::string& token) {
  if (files.ca.empty()) {
    return absl::InvalidArgumentError(
        "TLS needs the certificate of the CA that signs the server's (--tls-ca)");
  }
  MUSTER_RETURN_IF_ERROR(security::CheckTlsFiles(files));
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(files));
  options.watch_root_certs();
  if (!files.certificate.empty()) options.watch_identity_key_cert_pairs();
  std::shared_ptr<grpc::ChannelCredentials> tls = grpc::experimental::TlsCredentials(options);
  if (token.empty()) return tls;
  return grpc::CompositeChannelCredentials(
      tls, grpc::MetadataCredentialsFromPlugin(std::make_unique<BearerToken>(token)));
}

}  // namespace muster::rpc
