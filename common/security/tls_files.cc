#include "common/security/tls_files.h"

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/security/openssl_objects.h"

namespace muster::security {
namespace {

absl::StatusOr<OpensslPtr<BIO>> OpenPem(const std::filesystem::path& path, std::string* text) {
  absl::StatusOr<std::string> read = base::ReadFile(path);
  if (!read.ok()) return absl::InvalidArgumentError(read.status().message());
  *text = *std::move(read);
  return OpensslPtr<BIO>(BIO_new_mem_buf(text->data(), static_cast<int>(text->size())));
}

// In place of asking the terminal for the password of an encrypted key.
int NoPassword(char*, int, int, void*) { return 0; }

}  // namespace

absl::StatusOr<std::vector<OpensslPtr<X509>>> ReadCertificates(const std::filesystem::path& path) {
  std::string text;
  MUSTER_ASSIGN_OR_RETURN(const OpensslPtr<BIO> bio, OpenPem(path, &text));
  std::vector<OpensslPtr<X509>> certificates;
  while (X509* one = PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr)) {
    certificates.emplace_back(one);
  }
  ERR_clear_error();
  if (certificates.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " holds no certificate: it must be PEM (BEGIN CERTIFICATE)"));
  }
  return certificates;
}

absl::StatusOr<OpensslPtr<EVP_PKEY>> ReadPrivateKey(const std::filesystem::path& path) {
  std::string text;
  MUSTER_ASSIGN_OR_RETURN(const OpensslPtr<BIO> bio, OpenPem(path, &text));
  OpensslPtr<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        path.string(), " holds no private key: it must be PEM and not encrypted (openssl pkey)"));
  }
  return key;
}

absl::Status CheckTlsFiles(const TlsFiles& files) {
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError(
        "a TLS certificate and its private key must be given together");
  }
  if (!files.ca.empty()) MUSTER_RETURN_IF_ERROR(ReadCertificates(files.ca).status());
  if (files.certificate.empty()) return absl::OkStatus();
  MUSTER_ASSIGN_OR_RETURN(const auto certificates, ReadCertificates(files.certificate));
  MUSTER_ASSIGN_OR_RETURN(const auto key, ReadPrivateKey(files.key));
  X509* own = certificates[0].get();
  const bool fits = X509_check_private_key(own, key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(files.key.string(), " is not the key of ",
                                                   files.certificate.string(),
                                                   ": give the pair that was made together"));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(own)) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.certificate.string(), " has expired: renew it"));
  }
  if (X509_cmp_current_time(X509_get0_notBefore(own)) > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.certificate.string(), " is not valid yet: check this machine's clock"));
  }
  return absl::OkStatus();
}

}  // namespace muster::security
