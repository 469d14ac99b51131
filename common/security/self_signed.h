#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "common/security/openssl_objects.h"

namespace muster::security {

// A certificate that signs itself, for a server whose clients are told of exactly this one.
struct SelfSigned {
  OpensslPtr<EVP_PKEY> key;
  OpensslPtr<X509> certificate;
  // The certificate alone, PEM.
  std::string pem;
};

// With a new P-256 key, for `name` at the IP address, valid for ten years from yesterday (clocks
// differ). It can sign no other certificate.
absl::StatusOr<SelfSigned> MakeSelfSigned(const std::string& name, const std::string& ip);

// The first certificate of the text. InvalidArgument when there is none.
absl::StatusOr<OpensslPtr<X509>> ParseCertificate(const std::string& pem);

}  // namespace muster::security
