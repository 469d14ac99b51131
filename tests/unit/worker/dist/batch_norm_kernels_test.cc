#include "worker/model/batch_norm_kernels.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/unit/worker/dist/batch_norm_case.h"

namespace muster::model {
namespace {

using testing::Random;

TEST(BatchNormKernels, AtenAndLoopsAgree) {
  const BatchNormKernels& loops = CpuBatchNormKernels();
  const BatchNormKernels& aten = AtenBatchNormKernels();
  for (const int64_t images : {0, 2}) {
    // More than one block a plane, and a remainder of the lanes.
    const at::Tensor x = Random({images, 3, 59, 73}, 1600) + 2, dy = Random(x.sizes(), 1601);
    const auto options = x.options();
    at::Tensor a = at::empty({3, 3}, options), b = at::empty({3, 3}, options);
    loops.statistics(x, a);
    aten.statistics(x, b);
    EXPECT_TRUE(a.allclose(b, 1e-12, 1e-12)) << a << b;
    const at::Tensor gathered = at::stack({a, (Random({3, 3}, 1602).abs() * 100).ceil(), a * 0});
    const at::Tensor merged = loops.merge(gathered);
    EXPECT_TRUE(merged.allclose(aten.merge(gathered), 1e-12, 1e-12));
    const at::Tensor scale = Random({3}, 1603), shift = Random({3}, 1604), mean = merged[0];
    EXPECT_TRUE(loops.normalize(x, mean, scale, shift)
                    .allclose(aten.normalize(x, mean, scale, shift), 1e-12, 1e-12));
    at::Tensor s = at::empty({2, 3}, options), t = at::empty({2, 3}, options);
    loops.backward_sums(dy, x, mean, scale, s);
    aten.backward_sums(dy, x, mean, scale, t);
    EXPECT_TRUE(s.allclose(t, 1e-11, 1e-11)) << s << t;
    EXPECT_TRUE(loops.add(at::stack({s, t, s})).allclose(aten.add(at::stack({s, t, s}))));
    EXPECT_TRUE(loops.backward_input(dy, x, mean, scale, s[0], shift)
                    .allclose(aten.backward_input(dy, x, mean, scale, s[0], shift), 1e-11, 1e-11));
  }
}

TEST(BatchNormKernels, BitsDoNotDependOnTheNumberOfThreads) {
  const at::Tensor x = Random({2, 18, 120, 160}, 1700).to(at::kFloat);
  const int before = at::get_num_threads();
  at::Tensor one = at::empty({3, 18}, at::kDouble), two = at::empty({3, 18}, at::kDouble);
  at::set_num_threads(1);
  CpuBatchNormKernels().statistics(x, one);
  at::set_num_threads(2);
  CpuBatchNormKernels().statistics(x, two);
  at::set_num_threads(before);
  EXPECT_TRUE(one.equal(two));
}

}  // namespace
}  // namespace muster::model
