#include "common/security/self_signed.h"

#include <openssl/x509v3.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

#include "common/base/random_id.h"
#include "common/base/status_macros.h"

namespace muster::security {
namespace {

constexpr long kDay = 24L * 60 * 60;
constexpr long kValidDays = 3650;

absl::Status Failed(const std::string& what) {
  char reason[256] = "unknown";
  if (const unsigned long code = ERR_get_error(); code != 0) {
    ERR_error_string_n(code, reason, sizeof(reason));
  }
  return absl::InternalError(absl::StrCat("cannot make a certificate: ", what, ": ", reason));
}

absl::Status AddExtension(X509* certificate, int id, const std::string& value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, id, value.c_str());
  const bool added = extension != nullptr && X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added ? absl::OkStatus() : Failed(value);
}

}  // namespace

absl::StatusOr<SelfSigned> MakeSelfSigned(const std::string& name, const std::string& ip) {
  SelfSigned made;
  made.key.reset(EVP_EC_gen("P-256"));
  made.certificate.reset(X509_new());
  X509* certificate = made.certificate.get();
  if (made.key == nullptr || certificate == nullptr) return Failed("key");
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate),
                          std::strtoull(base::RandomHex(7).c_str(), nullptr, 16));
  X509_gmtime_adj(X509_getm_notBefore(certificate), -kDay);
  X509_gmtime_adj(X509_getm_notAfter(certificate), kValidDays * kDay);
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, subject);
  X509_set_pubkey(certificate, made.key.get());
  MUSTER_RETURN_IF_ERROR(AddExtension(certificate, NID_basic_constraints, "critical,CA:FALSE"));
  MUSTER_RETURN_IF_ERROR(AddExtension(certificate, NID_subject_alt_name, absl::StrCat("IP:", ip)));
  if (X509_sign(certificate, made.key.get(), EVP_sha256()) <= 0) return Failed("signature");
  const OpensslPtr<BIO> text(BIO_new(BIO_s_mem()));
  char* data = nullptr;
  if (PEM_write_bio_X509(text.get(), certificate) != 1) return Failed("PEM");
  const long size = BIO_get_mem_data(text.get(), &data);
  made.pem.assign(data, static_cast<size_t>(size));
  return made;
}

absl::StatusOr<OpensslPtr<X509>> ParseCertificate(const std::string& pem) {
  const OpensslPtr<BIO> text(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  OpensslPtr<X509> certificate(PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) return absl::InvalidArgumentError("this is no PEM certificate");
  return certificate;
}

}  // namespace muster::security
