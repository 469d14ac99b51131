#include "tests/support/certificate_authority.h"

#include <openssl/x509v3.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_join.h"

#include "common/base/files.h"
#include "common/base/random_id.h"

namespace muster::testing {
namespace {

using security::OpensslPtr;

void Check(bool condition) {
  if (!condition) std::abort();
}

std::string BioText(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

void WriteText(const std::filesystem::path& path, const std::string& text) {
  Check(base::WriteFileAtomically(path, text).ok());
}

void WriteCertificate(const std::filesystem::path& path, X509* certificate) {
  const OpensslPtr<BIO> bio(BIO_new(BIO_s_mem()));
  Check(PEM_write_bio_X509(bio.get(), certificate) == 1);
  WriteText(path, BioText(bio.get()));
}

void WriteKey(const std::filesystem::path& path, EVP_PKEY* key) {
  const OpensslPtr<BIO> bio(BIO_new(BIO_s_mem()));
  Check(PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  WriteText(path, BioText(bio.get()));
}

void AddExtension(X509* certificate, int id, const std::string& value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, id, value.c_str());
  Check(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

// Without a signature. `issuer` null: itself.
OpensslPtr<X509> MakeCertificate(const std::string& name, EVP_PKEY* key, const X509* issuer,
                                 absl::Duration begins, absl::Duration ends) {
  OpensslPtr<X509> certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  const std::string serial = base::RandomHex(4);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()),
                          std::strtoull(serial.c_str(), nullptr, 16));
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), absl::ToInt64Seconds(begins));
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), absl::ToInt64Seconds(ends));
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate.get(),
                       issuer == nullptr ? subject : X509_get_subject_name(issuer));
  X509_set_pubkey(certificate.get(), key);
  return certificate;
}

}  // namespace

CertificateAuthority::CertificateAuthority(std::filesystem::path folder)
    : folder_(std::move(folder)), key_(EVP_EC_gen("P-256")) {
  std::filesystem::create_directories(folder_);
  certificate_ = MakeCertificate("test CA " + base::RandomHex(4), key_.get(), nullptr,
                                 -absl::Hours(2), absl::Hours(48));
  AddExtension(certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate_.get(), NID_key_usage, "critical,keyCertSign");
  Check(X509_sign(certificate_.get(), key_.get(), EVP_sha256()) > 0);
  WriteCertificate(ca(), certificate_.get());
}

security::TlsFiles CertificateAuthority::Issue(const Request& request) const {
  const OpensslPtr<EVP_PKEY> key(EVP_EC_gen("P-256"));
  const OpensslPtr<X509> certificate =
      MakeCertificate(request.name, key.get(), certificate_.get(), request.begins, request.ends);
  if (!request.alternative_names.empty()) {
    AddExtension(certificate.get(), NID_subject_alt_name,
                 absl::StrJoin(request.alternative_names, ","));
  }
  Check(X509_sign(certificate.get(), key_.get(), EVP_sha256()) > 0);
  security::TlsFiles files;
  files.certificate = folder_ / (request.name + ".pem");
  files.key = folder_ / (request.name + ".key");
  files.ca = ca();
  WriteKey(files.key, key.get());
  WriteCertificate(files.certificate, certificate.get());
  return files;
}

security::TlsFiles CertificateAuthority::Issue(const std::string& name) const {
  Request request;
  request.name = name;
  return Issue(request);
}

void ReplaceFile(const std::filesystem::path& from, const std::filesystem::path& to) {
  const auto text = base::ReadFile(from);
  Check(text.ok());
  WriteText(to, *text);
}

}  // namespace muster::testing
