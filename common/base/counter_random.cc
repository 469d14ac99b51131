#include "common/base/counter_random.h"

#include <cmath>

namespace muster::base {
namespace {

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

}  // namespace

CounterRandom::CounterRandom(uint64_t seed, uint64_t epoch, uint64_t sample,
                             std::string_view purpose) {
  uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : purpose) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  state_ = Mix(seed + kGolden);
  state_ = Mix(state_ + epoch + kGolden);
  state_ = Mix(state_ + sample + kGolden);
  state_ = Mix(state_ + hash + kGolden);
}

uint64_t CounterRandom::NextUint64() {
  state_ += kGolden;
  return Mix(state_);
}

double CounterRandom::NextDouble() { return static_cast<double>(NextUint64() >> 11) * 0x1.0p-53; }

uint64_t CounterRandom::NextBelow(uint64_t bound) {
  const uint64_t limit = -bound % bound;  // 2^64 mod bound
  while (true) {
    const uint64_t value = NextUint64();
    if (value >= limit) return value % bound;
  }
}

double CounterRandom::NextGaussian() {
  double u = 0;
  while (u == 0) u = NextDouble();
  return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * NextDouble());
}

}  // namespace muster::base
