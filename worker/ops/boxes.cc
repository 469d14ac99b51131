#include "worker/ops/boxes.h"

#include <cmath>

namespace muster::ops {
namespace {

template <typename T, typename Function>
void FillPairs(const at::Tensor& a, const at::Tensor& b, at::Tensor* result, Function function) {
  const auto* first = reinterpret_cast<const Corners<T>*>(a.const_data_ptr<T>());
  const auto* second = reinterpret_cast<const Corners<T>*>(b.const_data_ptr<T>());
  T* out = result->mutable_data_ptr<T>();
  for (int64_t i = 0; i < a.size(0); ++i) {
    for (int64_t j = 0; j < b.size(0); ++j) {
      out[i * b.size(0) + j] = function(first[i], second[j]);
    }
  }
}

at::Tensor Pairwise(const at::Tensor& a, const at::Tensor& b, bool over_union) {
  TORCH_CHECK(a.dim() == 2 && a.size(1) == 4 && b.dim() == 2 && b.size(1) == 4,
              "boxes must be (N, 4), not ", a.sizes(), " and ", b.sizes());
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.device().is_cpu() && b.device().is_cpu(),
              "boxes must share one dtype and lie on the CPU");
  at::Tensor result = at::empty({a.size(0), b.size(0)}, a.options());
  const at::Tensor first = a.contiguous();
  const at::Tensor second = b.contiguous();
  AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), "Pairwise", [&] {
    using Box = Corners<scalar_t>;
    if (over_union) {
      FillPairs<scalar_t>(first, second, &result,
                          [](const Box& x, const Box& y) { return IoU(x, Area(x), y, Area(y)); });
    } else {
      FillPairs<scalar_t>(first, second, &result,
                          [](const Box& x, const Box& y) { return IoF(x, Area(x), y); });
    }
  });
  return result;
}

at::Tensor RowOf(const std::array<double, 4>& values, const at::Tensor& like) {
  return at::tensor(at::ArrayRef<double>(values.data(), values.size()), like.options());
}

}  // namespace

at::Tensor PairwiseIoU(const at::Tensor& a, const at::Tensor& b) { return Pairwise(a, b, true); }
at::Tensor PairwiseIoF(const at::Tensor& a, const at::Tensor& b) { return Pairwise(a, b, false); }

at::Tensor EncodeBoxes(const at::Tensor& priors, const at::Tensor& targets,
                       const std::array<double, 4>& stds) {
  const auto centre = [](const at::Tensor& boxes, int64_t axis) {
    return (boxes.select(1, axis) + boxes.select(1, axis + 2)) * 0.5;
  };
  const auto side = [](const at::Tensor& boxes, int64_t axis) {
    return boxes.select(1, axis + 2) - boxes.select(1, axis);
  };
  const at::Tensor width = side(priors, 0);
  const at::Tensor height = side(priors, 1);
  const at::Tensor deltas =
      at::stack({(centre(targets, 0) - centre(priors, 0)) / width,
                 (centre(targets, 1) - centre(priors, 1)) / height,
                 at::log(side(targets, 0) / width), at::log(side(targets, 1) / height)},
                1);
  return deltas / RowOf(stds, deltas);
}

at::Tensor DecodeBoxes(const at::Tensor& priors, const at::Tensor& deltas,
                       const std::array<double, 4>& stds, int image_h, int image_w,
                       BoxConvention convention) {
  const int64_t count = priors.size(0);
  TORCH_CHECK(deltas.dim() == 2 && deltas.size(0) == count && deltas.size(1) % 4 == 0, "deltas ",
              deltas.sizes(), " do not fit ", count, " priors");
  const int64_t per_prior = deltas.size(1) / 4;
  const at::Tensor scaled = deltas.reshape({count, per_prior, 4}) * RowOf(stds, deltas);
  const double limit = std::abs(std::log(16.0 / 1000.0));
  const at::Tensor prior = priors.unsqueeze(1);
  const at::Tensor centre = (prior.slice(2, 0, 2) + prior.slice(2, 2, 4)) * 0.5;
  const at::Tensor side = prior.slice(2, 2, 4) - prior.slice(2, 0, 2);
  const at::Tensor new_centre = centre + side * scaled.slice(2, 0, 2);
  const at::Tensor new_side = side * scaled.slice(2, 2, 4).clamp(-limit, limit).exp();
  at::Tensor boxes = at::cat({new_centre - new_side * 0.5, new_centre + new_side * 0.5}, 2);
  const int margin = convention == BoxConvention::kSeed ? 1 : 0;
  boxes.select(2, 0).clamp_(0, image_w - margin);
  boxes.select(2, 1).clamp_(0, image_h - margin);
  boxes.select(2, 2).clamp_(margin, image_w);
  boxes.select(2, 3).clamp_(margin, image_h);
  return boxes.reshape({count, per_prior * 4});
}

}  // namespace muster::ops
