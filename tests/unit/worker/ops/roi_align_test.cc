#include "worker/ops/roi_align.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "worker/ops/nms.h"

namespace muster::ops {
namespace {

at::Tensor Rois() {
  // Image, box: whole map, tiny, sticking out, without area.
  return at::tensor({0., 0.,  0.,  31., 23., 1., 3.3, 4.4, 9.1, 8.7,
                     1., -6., 10., 40., 30., 0., 5.,  5.,  5.,  5.},
                    at::kDouble)
      .view({4, 5});
}

// The textbook's triple loop over one channel.
double Slow(const at::Tensor& plane, const at::Tensor& roi, double scale,
            const RoiAlignParameters& p, int bin_y, int bin_x) {
  const auto at_pixel = [&](int64_t y, int64_t x) {
    return plane[std::clamp<int64_t>(y, 0, plane.size(0) - 1)]
                [std::clamp<int64_t>(x, 0, plane.size(1) - 1)]
                    .item<double>();
  };
  const double x1 = roi[1].item<double>() * scale - p.offset;
  const double y1 = roi[2].item<double>() * scale - p.offset;
  const double w =
      std::max((roi[3] - roi[1]).item<double>() * scale, p.minimum_size) / p.pooled_size;
  const double h =
      std::max((roi[4] - roi[2]).item<double>() * scale, p.minimum_size) / p.pooled_size;
  const int nx = p.sampling_ratio > 0 ? p.sampling_ratio : static_cast<int>(std::ceil(w));
  const int ny = p.sampling_ratio > 0 ? p.sampling_ratio : static_cast<int>(std::ceil(h));
  double sum = 0;
  for (int i = 0; i < ny; ++i) {
    for (int j = 0; j < nx; ++j) {
      double y = y1 + bin_y * h + (i + 0.5) * h / ny;
      double x = x1 + bin_x * w + (j + 0.5) * w / nx;
      if (y < -1 || x < -1 || y > static_cast<double>(plane.size(0)) ||
          x > static_cast<double>(plane.size(1))) {
        continue;
      }
      y = std::clamp(y, 0.0, static_cast<double>(plane.size(0) - 1));
      x = std::clamp(x, 0.0, static_cast<double>(plane.size(1) - 1));
      const auto top = static_cast<int64_t>(y);
      const auto left = static_cast<int64_t>(x);
      const double dy = y - static_cast<double>(top);
      const double dx = x - static_cast<double>(left);
      sum += (1 - dy) * ((1 - dx) * at_pixel(top, left) + dx * at_pixel(top, left + 1)) +
             dy * ((1 - dx) * at_pixel(top + 1, left) + dx * at_pixel(top + 1, left + 1));
    }
  }
  return sum / std::max(nx * ny, 1);
}

class RoiAlignModes : public ::testing::TestWithParam<RoiAlignParameters> {};

TEST_P(RoiAlignModes, EqualsTheSlowLoop) {
  torch::manual_seed(2);
  const at::Tensor map = at::randn({2, 3, 12, 16}, at::kDouble);
  const at::Tensor rois = Rois();
  const at::Tensor pooled = RoiAlign({map}, rois, at::zeros({4}, at::kLong), {0.5}, GetParam());
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 3; ++c) {
      for (int y = 0; y < GetParam().pooled_size; ++y) {
        for (int x = 0; x < GetParam().pooled_size; ++x) {
          EXPECT_NEAR(pooled[r][c][y][x].item<double>(),
                      Slow(map[rois[r][0].item<int64_t>()][c], rois[r], 0.5, GetParam(), y, x),
                      1e-12);
        }
      }
    }
  }
}

TEST_P(RoiAlignModes, GradientEqualsFiniteDifferences) {
  torch::manual_seed(2);
  const at::Tensor map = at::randn({2, 2, 6, 8}, at::kDouble).requires_grad_(true);
  const at::Tensor rois = Rois();
  const at::Tensor levels = at::zeros({4}, at::kLong);
  const int64_t side = GetParam().pooled_size;
  const at::Tensor weight = at::randn({4, 2, side, side}, at::kDouble);
  const auto value = [&](const at::Tensor& m) {
    return (RoiAlign({m}, rois, levels, {0.25}, GetParam()) * weight).sum();
  };
  value(map).backward();
  torch::NoGradGuard no_grad;
  const at::Tensor flat = map.detach().reshape({-1});
  for (int64_t i = 0; i < flat.numel(); i += 5) {
    at::Tensor moved = flat.clone();
    moved[i] += 0.5;
    const double up = value(moved.view_as(map)).item<double>();
    moved[i] -= 1.0;
    const double down = value(moved.view_as(map)).item<double>();
    // Linear in the map, so exact for any step.
    EXPECT_NEAR(map.grad().reshape({-1})[i].item<double>(), up - down, 1e-10);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RoiAlignModes,
                         ::testing::Values(RoiAlignParameters{3, 0, 0.5, 0},
                                           RoiAlignParameters{3, 2, 0.0, 1},
                                           RoiAlignParameters{2, 2, 0.0, 0}));

TEST(RoiAlign, TakesEachRegionFromItsLevel) {
  const at::Tensor low = at::full({1, 1, 8, 8}, 1.0f);
  const at::Tensor high = at::full({1, 1, 4, 4}, 2.0f);
  const at::Tensor rois = at::tensor({0.f, 2.f, 2.f, 6.f, 6.f}).repeat({2, 1}).view({2, 5});
  const at::Tensor pooled =
      RoiAlign({low, high}, rois, at::tensor({1, 0}, at::kLong), {1, 0.5}, {});
  EXPECT_EQ(pooled[0].mean().item<float>(), 2);
  EXPECT_EQ(pooled[1].mean().item<float>(), 1);
  EXPECT_THROW(RoiAlign({low}, rois, at::tensor({1, 0}, at::kLong), {1}, {}), c10::Error);
}

TEST(RoiAlign, TakesNoRegionsAndSurvivesNotANumber) {
  const at::Tensor map = at::ones({1, 2, 4, 4}).requires_grad_(true);
  const at::Tensor none = RoiAlign({map}, at::empty({0, 5}), at::empty({0}, at::kLong), {1}, {});
  EXPECT_EQ(none.sizes(), (std::vector<int64_t>{0, 2, 7, 7}));
  none.sum().backward();
  EXPECT_EQ(map.grad().abs().max().item<float>(), 0);
  at::Tensor bad = at::full({1, 5}, std::numeric_limits<float>::quiet_NaN());
  bad[0][0] = 0;
  EXPECT_EQ(RoiLevels(bad, 4).item<int64_t>(), 0);
  EXPECT_EQ(RoiAlign({map}, bad, RoiLevels(bad, 4), {1}, {}).abs().max().item<float>(), 0);
}

TEST(RoiLevels, GrowWithTheSize) {
  const at::Tensor side = at::tensor({10.f, 111.f, 113.f, 300.f, 2000.f});
  const at::Tensor zero = at::zeros({5});
  EXPECT_TRUE(RoiLevels(at::stack({zero, zero, zero, side, side}, 1), 4)
                  .equal(at::tensor({0, 0, 1, 2, 3}, at::kLong)));
}

// Keeps a box when no better one that was kept overlaps it.
std::vector<int64_t> NmsSlowly(const at::Tensor& boxes, const at::Tensor& scores,
                               double threshold) {
  const at::Tensor order = DescendingOrder(scores);
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < order.size(0); ++i) {
    const int64_t candidate = order[i].item<int64_t>();
    const float* b = boxes.const_data_ptr<float>() + candidate * 4;
    bool keep = true;
    for (const int64_t k : kept) {
      const float* a = boxes.const_data_ptr<float>() + k * 4;
      const float w = std::max(0.f, std::min(a[2], b[2]) - std::max(a[0], b[0]));
      const float h = std::max(0.f, std::min(a[3], b[3]) - std::max(a[1], b[1]));
      const float joint = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h;
      keep = keep && !(w * h / joint > static_cast<float>(threshold));
    }
    if (keep) kept.push_back(candidate);
  }
  return kept;
}

TEST(Nms, EqualsTheSlowLoop) {
  torch::manual_seed(4);
  const at::Tensor corner = at::rand({200, 2}) * 40;
  const at::Tensor boxes = at::cat({corner, corner + 1 + at::rand({200, 2}) * 20}, 1).contiguous();
  // Few distinct scores: many ties.
  const at::Tensor scores = (at::rand({200}) * 10).floor();
  EXPECT_TRUE(Nms(boxes, scores, 0.5).equal(at::tensor(NmsSlowly(boxes, scores, 0.5), at::kLong)));
  const at::Tensor groups = at::randint(0, 3, {200}, at::kLong);
  const at::Tensor shifted = (boxes + (groups * 100).unsqueeze(1)).contiguous();
  EXPECT_TRUE(BatchedNms(boxes, scores, groups, 0.5)
                  .equal(at::tensor(NmsSlowly(shifted, scores, 0.5), at::kLong)));
}

TEST(Nms, TakesNoBoxesAndBoxesWithoutArea) {
  EXPECT_EQ(Nms(at::empty({0, 4}), at::empty({0}), 0.5).size(0), 0);
  EXPECT_EQ(Nms(at::zeros({3, 4}), at::ones({3}), 0.5).size(0), 3);
}

}  // namespace
}  // namespace muster::ops
