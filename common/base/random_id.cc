#include "common/base/random_id.h"

#include <sys/random.h>

#include <cstdlib>
#include <vector>

namespace muster::base {

std::string RandomHex(int bytes) {
  std::vector<unsigned char> data(static_cast<size_t>(bytes));
  size_t filled = 0;
  while (filled < data.size()) {
    const ssize_t n = getrandom(data.data() + filled, data.size() - filled, 0);
    if (n < 0) std::abort();  // cannot happen for up to 256 bytes once the system is up
    filled += static_cast<size_t>(n);
  }
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const unsigned char byte : data) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

std::string RandomUuid() {
  std::string hex = RandomHex(16);
  hex[12] = '4';
  hex[16] = "89ab"[hex[16] % 4];
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) + "-" +
         hex.substr(16, 4) + "-" + hex.substr(20);
}

}  // namespace muster::base
