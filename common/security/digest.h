#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace muster::security {

// The 32 bytes of SHA-256.
std::string Sha256(absl::string_view data);

// Takes as long for texts of one length, wherever they differ.
bool EqualInConstantTime(absl::string_view a, absl::string_view b);

// A new secret with 256 random bits, "muster-" and 64 hexadecimal digits: scanners for leaked
// secrets can look for the prefix.
std::string MakeSecret();

}  // namespace muster::security
