#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "common/security/openssl_objects.h"
#include "common/security/tls_files.h"

namespace muster::testing {

// A CA of the test's own, and what it signs.
class CertificateAuthority {
 public:
  // Writes ca.pem into the folder, which is made.
  explicit CertificateAuthority(std::filesystem::path folder);

  std::filesystem::path ca() const { return folder_ / "ca.pem"; }

  struct Request {
    // Of the subject, and of the files: <name>.pem and <name>.key replace those that are there,
    // each in one step.
    std::string name = "node";
    // What it is valid for, in OpenSSL's words.
    std::vector<std::string> alternative_names = {"IP:127.0.0.1", "DNS:localhost"};
    // From now.
    absl::Duration begins = -absl::Hours(1);
    absl::Duration ends = absl::Hours(24);
  };
  // The files for somebody who trusts this authority.
  security::TlsFiles Issue(const Request& request) const;
  security::TlsFiles Issue(const std::string& name) const;

 private:
  const std::filesystem::path folder_;
  const security::OpensslPtr<EVP_PKEY> key_;
  security::OpensslPtr<X509> certificate_;
};

// In one step each.
void ReplaceFile(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace muster::testing
