#include "worker/ops/anchors.h"

#include <cmath>
#include <utility>

namespace muster::ops {
namespace {

// Multi-scale training meets many shapes; a batch uses one a level.
constexpr size_t kShapesCachedPerLevel = 8;

// In float32, operation by operation as mmdetection's tensors are.
at::Tensor MakeBase(int stride, const AnchorOptions& options) {
  const auto count = static_cast<int64_t>(options.ratios.size() * options.scales.size());
  at::Tensor base = at::empty({count, 4}, at::kFloat);
  auto* box = reinterpret_cast<Corners<float>*>(base.mutable_data_ptr<float>());
  const auto side = static_cast<float>(stride);
  for (const double ratio : options.ratios) {
    const float height_ratio = std::sqrt(static_cast<float>(ratio));
    const float width_ratio = 1.0f / height_ratio;
    for (const double scale : options.scales) {
      const float width = side * width_ratio * static_cast<float>(scale);
      const float height = side * height_ratio * static_cast<float>(scale);
      if (options.convention == BoxConvention::kSeed) {
        const float centre = 0.5f * (side - 1.0f);
        // nearbyint: to even at .5, as torch.round. The last + 1 makes inclusive corners half-open.
        *box++ = {std::nearbyint(centre - 0.5f * (width - 1.0f)),
                  std::nearbyint(centre - 0.5f * (height - 1.0f)),
                  std::nearbyint(centre + 0.5f * (width - 1.0f)) + 1.0f,
                  std::nearbyint(centre + 0.5f * (height - 1.0f)) + 1.0f};
      } else {
        *box++ = {-0.5f * width, -0.5f * height, 0.5f * width, 0.5f * height};
      }
    }
  }
  return base;
}

template <typename T>
at::Tensor MakeGrid(const at::Tensor& base_anchors, int stride, int64_t height, int64_t width) {
  const int64_t per_cell = base_anchors.size(0);
  at::Tensor anchors = at::empty({height * width * per_cell, 4},
                                 base_anchors.options().dtype(c10::CppTypeToScalarType<T>::value));
  auto* out = reinterpret_cast<Corners<T>*>(anchors.mutable_data_ptr<T>());
  const auto* base = reinterpret_cast<const Corners<float>*>(base_anchors.const_data_ptr<float>());
  for (int64_t y = 0; y < height; ++y) {
    const T shift_y = static_cast<T>(y) * static_cast<T>(stride);
    for (int64_t x = 0; x < width; ++x) {
      const T shift_x = static_cast<T>(x) * static_cast<T>(stride);
      for (int64_t k = 0; k < per_cell; ++k) {
        *out++ = {base[k].x1 + shift_x, base[k].y1 + shift_y, base[k].x2 + shift_x,
                  base[k].y2 + shift_y};
      }
    }
  }
  return anchors;
}

}  // namespace

AnchorGenerator::AnchorGenerator(AnchorOptions options)
    : options_(std::move(options)), cache_(options_.strides.size()) {
  TORCH_CHECK(!options_.strides.empty() && !options_.scales.empty() && !options_.ratios.empty(),
              "anchors need at least one stride, scale and ratio");
  for (const int stride : options_.strides) base_.push_back(MakeBase(stride, options_));
}

int64_t AnchorGenerator::boxes_per_cell() const { return base_[0].size(0); }

at::Tensor AnchorGenerator::GridAnchors(int level, int64_t height, int64_t width,
                                        at::ScalarType type) {
  auto& cache = cache_[static_cast<size_t>(level)];
  const Shape shape{height, width, type};
  const auto found = cache.find(shape);
  if (found != cache.end()) return found->second;
  at::Tensor anchors;
  AT_DISPATCH_FLOATING_TYPES(type, "GridAnchors", [&] {
    anchors = MakeGrid<scalar_t>(BaseAnchors(level), stride(level), height, width);
  });
  if (cache.size() >= kShapesCachedPerLevel) cache.clear();
  cache.emplace(shape, anchors);
  return anchors;
}

}  // namespace muster::ops
