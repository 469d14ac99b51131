#pragma once

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::security {

struct OpensslFree {
  void operator()(BIO* object) const { BIO_free(object); }
  void operator()(EVP_MD_CTX* object) const { EVP_MD_CTX_free(object); }
  void operator()(EVP_PKEY* object) const { EVP_PKEY_free(object); }
  void operator()(SSL* object) const { SSL_free(object); }
  void operator()(SSL_CTX* object) const { SSL_CTX_free(object); }
  void operator()(STACK_OF(X509) * object) const { sk_X509_pop_free(object, X509_free); }
  void operator()(X509* object) const { X509_free(object); }
  void operator()(X509_STORE* object) const { X509_STORE_free(object); }
};
template <typename Object>
using OpensslPtr = std::unique_ptr<Object, OpensslFree>;

// At least one, in the file's order. InvalidArgument names the file. Likewise below.
absl::StatusOr<std::vector<OpensslPtr<X509>>> ReadCertificates(const std::filesystem::path& path);
absl::StatusOr<OpensslPtr<EVP_PKEY>> ReadPrivateKey(const std::filesystem::path& path);

}  // namespace muster::security
