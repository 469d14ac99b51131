#pragma once

#include <cstdint>
#include <string_view>

namespace muster::base {

// Random numbers that are a function of (seed, epoch, sample, purpose) and of how many were drawn
// before: the same whatever the number of threads or ranks, and after a resume. Not for secrets.
// The generator is SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
// generators") over a state that mixes the four keys.
class CounterRandom {
 public:
  // `purpose` names the use ("flip", "scale", "shuffle", ...), so that adding a use changes no
  // other.
  CounterRandom(uint64_t seed, uint64_t epoch, uint64_t sample, std::string_view purpose);

  uint64_t NextUint64();
  // Uniform in [0, 1), 53 bits.
  double NextDouble();
  // Uniform in 0 .. bound - 1, without modulo bias; bound > 0.
  uint64_t NextBelow(uint64_t bound);
  // Normal, mean 0, deviation 1.
  double NextGaussian();

 private:
  uint64_t state_;
};

}  // namespace muster::base
