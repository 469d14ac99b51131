#include "common/security/server_tls.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/security/openssl_objects.h"

namespace muster::security {
namespace {

// Changes whenever one of the files is replaced or written.
std::string FilesVersion(const TlsFiles& files) {
  std::string version;
  for (const std::filesystem::path* path : {&files.certificate, &files.key, &files.ca}) {
    struct stat info {};
    if (path->empty() || stat(path->c_str(), &info) != 0) {
      absl::StrAppend(&version, "-;");
    } else {
      absl::StrAppend(&version, info.st_ino, ".", info.st_size, ".", info.st_mtim.tv_sec, ".",
                      info.st_mtim.tv_nsec, ";");
    }
  }
  return version;
}

}  // namespace

struct ServerTls::Identity {
  OpensslPtr<X509> certificate;
  OpensslPtr<STACK_OF(X509)> chain;
  OpensslPtr<EVP_PKEY> key;
  // Null: clients show no certificate.
  OpensslPtr<X509_STORE> clients;
};

ServerTls::~ServerTls() = default;

absl::StatusOr<std::shared_ptr<const ServerTls::Identity>> ServerTls::Read(const TlsFiles& files) {
  if (files.certificate.empty()) {
    return absl::InvalidArgumentError("a TLS server needs a certificate and its private key");
  }
  MUSTER_RETURN_IF_ERROR(CheckTlsFiles(files));
  auto identity = std::make_shared<Identity>();
  MUSTER_ASSIGN_OR_RETURN(auto certificates, ReadCertificates(files.certificate));
  MUSTER_ASSIGN_OR_RETURN(identity->key, ReadPrivateKey(files.key));
  identity->certificate = std::move(certificates[0]);
  identity->chain.reset(sk_X509_new_null());
  for (size_t i = 1; i < certificates.size(); ++i) {
    sk_X509_push(identity->chain.get(), certificates[i].release());
  }
  if (!files.ca.empty()) {
    MUSTER_ASSIGN_OR_RETURN(const auto authorities, ReadCertificates(files.ca));
    identity->clients.reset(X509_STORE_new());
    for (const auto& authority : authorities) {
      X509_STORE_add_cert(identity->clients.get(), authority.get());
    }
  }
  return identity;
}

absl::StatusOr<std::unique_ptr<ServerTls>> ServerTls::Load(const TlsFiles& files) {
  auto tls = std::unique_ptr<ServerTls>(new ServerTls(files));
  const std::string version = FilesVersion(files);
  MUSTER_ASSIGN_OR_RETURN(auto identity, Read(files));
  absl::MutexLock lock(&tls->mutex_);
  tls->identity_ = std::move(identity);
  tls->version_ = version;
  return tls;
}

std::shared_ptr<const ServerTls::Identity> ServerTls::Current() {
  const std::string version = FilesVersion(files_);
  absl::MutexLock lock(&mutex_);
  if (version == version_) return identity_;
  version_ = version;
  absl::StatusOr<std::shared_ptr<const Identity>> read = Read(files_);
  if (read.ok()) {
    identity_ = *std::move(read);
    base::Log(base::LogSeverity::kInfo, "http", "took the new TLS certificate",
              {{"file", files_.certificate.string()}});
  } else {
    base::Log(base::LogSeverity::kError, "http", "the TLS files changed and cannot be used",
              {{"reason", std::string(read.status().message())}});
  }
  return identity_;
}

int ServerTls::OnHandshake(SSL* connection, void* self) {
  const std::shared_ptr<const Identity> identity = static_cast<ServerTls*>(self)->Current();
  if (SSL_use_cert_and_key(connection, identity->certificate.get(), identity->key.get(),
                           identity->chain.get(), /*override=*/1) != 1) {
    return 0;
  }
  if (identity->clients == nullptr) return 1;
  return SSL_set1_verify_cert_store(connection, identity->clients.get()) == 1 ? 1 : 0;
}

void ServerTls::SetUp(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  // A resumed session would keep the trust of old files.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_num_tickets(context, 0);
  if (!files_.ca.empty()) {
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  SSL_CTX_set_cert_cb(context, OnHandshake, this);
}

}  // namespace muster::security
