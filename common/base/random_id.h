#pragma once

#include <string>

namespace muster::base {

// `bytes` random bytes of the system in lower-case hexadecimal.
std::string RandomHex(int bytes);

// A random UUID (RFC 9562, version 4).
std::string RandomUuid();

}  // namespace muster::base
