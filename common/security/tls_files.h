#pragma once

#include <filesystem>

#include "absl/status/status.h"

namespace muster::security {

// The PEM files of one side of TLS; those not used are empty. Programs read them again when they
// change.
struct TlsFiles {
  // Own certificate first, then those between it and the CA; and its private key.
  std::filesystem::path certificate;
  std::filesystem::path key;
  // Signs what the other side must show. A server without one asks clients for no certificate.
  std::filesystem::path ca;

  bool empty() const { return certificate.empty() && key.empty() && ca.empty(); }
};

// That the files are what they should be: certificate and key given together, readable, fitting
// each other, valid now. InvalidArgument names the file and the fix.
absl::Status CheckTlsFiles(const TlsFiles& files);

}  // namespace muster::security
