#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "worker/model/batch_norm_kernels.h"

// Compiles a function a second time for AVX2 and picks at start-up. Additions are laid out in lanes
// by hand and never fused, so both versions give the same bits.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MUSTER_VECTORIZED __attribute__((target_clones("avx2", "default")))
#else
#define MUSTER_VECTORIZED
#endif

namespace muster::model {
namespace {

// Independent partial sums, which vectorise and round less than a single one.
constexpr int kLanes = 16;
// Elements whose mean and M2 are found before they are merged into the channel's: they stay in L1.
constexpr int64_t kBlock = 2048;
// Elements that make it worth to wake another thread.
constexpr int64_t kGrain = 32768;

inline __attribute__((always_inline)) double AddLanes(const double* lanes) {
  double halves[kLanes];
  std::copy(lanes, lanes + kLanes, halves);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) halves[lane] += halves[lane + width];
  }
  return halves[0];
}

template <typename T>
inline __attribute__((always_inline)) double SumBlock(const T* x, int64_t size) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<double>(x[i + lane]);
  }
  for (int lane = 0; i < size; ++i, ++lane) lanes[lane] += static_cast<double>(x[i]);
  return AddLanes(lanes);
}

template <typename T>
inline __attribute__((always_inline)) double SquaredDeviations(const T* x, int64_t size,
                                                               double mean) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double deviation = static_cast<double>(x[i + lane]) - mean;
      lanes[lane] += deviation * deviation;
    }
  }
  for (int lane = 0; i < size; ++i, ++lane) {
    const double deviation = static_cast<double>(x[i]) - mean;
    lanes[lane] += deviation * deviation;
  }
  return AddLanes(lanes);
}

struct Moments {
  double mean = 0;
  double m2 = 0;
  double count = 0;
};

template <typename T>
inline __attribute__((always_inline)) void AccumulatePlane(const T* x, int64_t size,
                                                           Moments* moments) {
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t block = std::min(kBlock, size - begin);
    const double count = static_cast<double>(block);
    const double mean = SumBlock(x + begin, block) / count;
    const double m2 = SquaredDeviations(x + begin, block, mean);
    const double total = moments->count + count;
    const double delta = mean - moments->mean;
    moments->mean += delta * (count / total);
    moments->m2 += m2 + delta * delta * (moments->count * count / total);
    moments->count = total;
  }
}

MUSTER_VECTORIZED void Accumulate(const float* x, int64_t size, Moments* moments) {
  AccumulatePlane(x, size, moments);
}
MUSTER_VECTORIZED void Accumulate(const double* x, int64_t size, Moments* moments) {
  AccumulatePlane(x, size, moments);
}

template <typename T>
inline __attribute__((always_inline)) void NormalizePlane(const T* x, int64_t size, T mean, T scale,
                                                          T shift, T* y) {
  for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - mean) * scale + shift;
}

MUSTER_VECTORIZED void NormalizeRow(const float* x, int64_t size, float mean, float scale,
                                    float shift, float* __restrict y) {
  NormalizePlane(x, size, mean, scale, shift, y);
}
MUSTER_VECTORIZED void NormalizeRow(const double* x, int64_t size, double mean, double scale,
                                    double shift, double* __restrict y) {
  NormalizePlane(x, size, mean, scale, shift, y);
}

template <typename T>
inline __attribute__((always_inline)) void AddBackwardPlane(const T* dy, const T* x, int64_t size,
                                                            double mean, double* sum,
                                                            double* product) {
  double sums[kLanes] = {};
  double products[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double gradient = static_cast<double>(dy[i + lane]);
      sums[lane] += gradient;
      products[lane] += gradient * (static_cast<double>(x[i + lane]) - mean);
    }
  }
  for (int lane = 0; i < size; ++i, ++lane) {
    const double gradient = static_cast<double>(dy[i]);
    sums[lane] += gradient;
    products[lane] += gradient * (static_cast<double>(x[i]) - mean);
  }
  *sum += AddLanes(sums);
  *product += AddLanes(products);
}

MUSTER_VECTORIZED void AddBackward(const float* dy, const float* x, int64_t size, double mean,
                                   double* sum, double* product) {
  AddBackwardPlane(dy, x, size, mean, sum, product);
}
MUSTER_VECTORIZED void AddBackward(const double* dy, const double* x, int64_t size, double mean,
                                   double* sum, double* product) {
  AddBackwardPlane(dy, x, size, mean, sum, product);
}

template <typename T>
inline __attribute__((always_inline)) void InputGradientPlane(const T* dy, const T* x, int64_t size,
                                                              T mean, T scale, T mean_dy, T slope,
                                                              T* dx) {
  for (int64_t i = 0; i < size; ++i) dx[i] = scale * (dy[i] - mean_dy - (x[i] - mean) * slope);
}

MUSTER_VECTORIZED void InputGradientRow(const float* dy, const float* x, int64_t size, float mean,
                                        float scale, float mean_dy, float slope,
                                        float* __restrict dx) {
  InputGradientPlane(dy, x, size, mean, scale, mean_dy, slope, dx);
}
MUSTER_VECTORIZED void InputGradientRow(const double* dy, const double* x, int64_t size,
                                        double mean, double scale, double mean_dy, double slope,
                                        double* __restrict dx) {
  InputGradientPlane(dy, x, size, mean, scale, mean_dy, slope, dx);
}

// Calls plane(n, c, offset of the plane in elements) for every image of each channel, channels
// spread over the threads.
template <typename Plane>
void ForEachChannel(const at::Tensor& x, const Plane& plane) {
  const int64_t images = x.size(0), channels = x.size(1), size = x.size(2) * x.size(3);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, images * size));
  at::parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t n = 0; n < images; ++n) plane(c, (n * channels + c) * size);
    }
  });
}

void Statistics(const at::Tensor& x, const at::Tensor& local) {
  const int64_t channels = x.size(1), size = x.size(2) * x.size(3);
  auto out = local.accessor<double, 2>();
  std::vector<Moments> moments(channels);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "batch_norm_statistics", [&] {
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    ForEachChannel(
        x, [&](int64_t c, int64_t offset) { Accumulate(data + offset, size, &moments[c]); });
  });
  for (int64_t c = 0; c < channels; ++c) {
    out[0][c] = moments[c].mean;
    out[1][c] = moments[c].m2;
    out[2][c] = moments[c].count;
  }
}

at::Tensor Merge(const at::Tensor& gathered) {
  const int64_t ranks = gathered.size(0), channels = gathered.size(2);
  at::Tensor merged = at::empty({3, channels}, gathered.options());
  auto in = gathered.accessor<double, 3>();
  auto out = merged.accessor<double, 2>();
  for (int64_t c = 0; c < channels; ++c) {
    double count = 0, weighted = 0, m2 = 0;
    for (int64_t r = 0; r < ranks; ++r) {
      count += in[r][2][c];
      weighted += in[r][2][c] * in[r][0][c];
    }
    const double mean = count > 0 ? weighted / count : 0;
    for (int64_t r = 0; r < ranks; ++r) {
      const double delta = in[r][0][c] - mean;
      m2 += in[r][1][c] + in[r][2][c] * delta * delta;
    }
    out[0][c] = mean;
    out[1][c] = m2;
    out[2][c] = count;
  }
  return merged;
}

at::Tensor Normalize(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                     const at::Tensor& shift) {
  at::Tensor y = at::empty(x.sizes(), x.options());
  const int64_t size = x.size(2) * x.size(3);
  const double* means = mean.const_data_ptr<double>();
  const double* scales = scale.const_data_ptr<double>();
  const double* shifts = shift.const_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "batch_norm_normalize", [&] {
    const scalar_t* in = x.const_data_ptr<scalar_t>();
    scalar_t* out = y.data_ptr<scalar_t>();
    ForEachChannel(x, [&](int64_t c, int64_t offset) {
      NormalizeRow(in + offset, size, static_cast<scalar_t>(means[c]),
                   static_cast<scalar_t>(scales[c]), static_cast<scalar_t>(shifts[c]),
                   out + offset);
    });
  });
  return y;
}

void BackwardSums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                  const at::Tensor& inverse_std, const at::Tensor& sums) {
  const int64_t channels = x.size(1), size = x.size(2) * x.size(3);
  auto out = sums.accessor<double, 2>();
  const double* means = mean.const_data_ptr<double>();
  const double* inverse = inverse_std.const_data_ptr<double>();
  std::vector<double> sum(channels), product(channels);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "batch_norm_backward_sums", [&] {
    const scalar_t* gradient = dy.const_data_ptr<scalar_t>();
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    ForEachChannel(x, [&](int64_t c, int64_t offset) {
      AddBackward(gradient + offset, data + offset, size, means[c], &sum[c], &product[c]);
    });
  });
  for (int64_t c = 0; c < channels; ++c) {
    out[0][c] = sum[c];
    out[1][c] = product[c] * inverse[c];
  }
}

at::Tensor Add(const at::Tensor& gathered) {
  const int64_t ranks = gathered.size(0), channels = gathered.size(2);
  at::Tensor total = at::empty({2, channels}, gathered.options());
  auto in = gathered.accessor<double, 3>();
  auto out = total.accessor<double, 2>();
  for (int64_t row = 0; row < 2; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t r = 0; r < ranks; ++r) sum += in[r][row][c];
      out[row][c] = sum;
    }
  }
  return total;
}

at::Tensor BackwardInput(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                         const at::Tensor& scale, const at::Tensor& mean_dy,
                         const at::Tensor& slope) {
  at::Tensor dx = at::empty(x.sizes(), x.options());
  const int64_t size = x.size(2) * x.size(3);
  const double* means = mean.const_data_ptr<double>();
  const double* scales = scale.const_data_ptr<double>();
  const double* mean_gradients = mean_dy.const_data_ptr<double>();
  const double* slopes = slope.const_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "batch_norm_backward_input", [&] {
    const scalar_t* gradient = dy.const_data_ptr<scalar_t>();
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    scalar_t* out = dx.data_ptr<scalar_t>();
    ForEachChannel(x, [&](int64_t c, int64_t offset) {
      InputGradientRow(gradient + offset, data + offset, size, static_cast<scalar_t>(means[c]),
                       static_cast<scalar_t>(scales[c]), static_cast<scalar_t>(mean_gradients[c]),
                       static_cast<scalar_t>(slopes[c]), out + offset);
    });
  });
  return dx;
}

}  // namespace

const BatchNormKernels& CpuBatchNormKernels() {
  static constexpr BatchNormKernels kKernels = {Statistics,   Merge, Normalize,
                                                BackwardSums, Add,   BackwardInput};
  return kKernels;
}

}  // namespace muster::model
