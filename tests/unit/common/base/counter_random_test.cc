#include "common/base/counter_random.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>

namespace muster::base {
namespace {

TEST(CounterRandomTest, FunctionOfItsKeys) {
  EXPECT_EQ(CounterRandom(1, 2, 3, "flip").NextUint64(),
            CounterRandom(1, 2, 3, "flip").NextUint64());
  std::set<uint64_t> first;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      for (uint64_t sample = 0; sample < 3; ++sample) {
        for (const char* purpose : {"flip", "scale", ""}) {
          first.insert(CounterRandom(seed, epoch, sample, purpose).NextUint64());
        }
      }
    }
  }
  EXPECT_EQ(first.size(), 81u);
}

TEST(CounterRandomTest, BelowIsUniform) {
  CounterRandom random(0, 0, 0, "test");
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts.at(random.NextBelow(7));
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
  EXPECT_EQ(CounterRandom(0, 0, 0, "one").NextBelow(1), 0u);
}

TEST(CounterRandomTest, DoubleAndGaussian) {
  CounterRandom random(5, 0, 0, "test");
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 50000;
  for (int i = 0; i < kDraws; ++i) {
    const double uniform = random.NextDouble();
    ASSERT_GE(uniform, 0);
    ASSERT_LT(uniform, 1);
    const double normal = random.NextGaussian();
    sum += normal;
    squares += normal * normal;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.03);
}

}  // namespace
}  // namespace muster::base
