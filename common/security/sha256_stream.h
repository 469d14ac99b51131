#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/security/openssl_objects.h"

namespace muster::security {

// SHA-256 of what comes in pieces.
class Sha256Stream {
 public:
  Sha256Stream();
  void Update(absl::string_view data);
  // The 32 bytes in hexadecimal; the stream is at its end.
  std::string Finish();

 private:
  const OpensslPtr<EVP_MD_CTX> context_;
};

// The same of the open file from its beginning, whose offset does not change. Cancelled once
// `give_up`, asked every few megabytes, says so.
absl::StatusOr<std::string> Sha256OfFile(int fd, const std::function<bool()>& give_up);

}  // namespace muster::security
