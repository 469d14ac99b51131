#include "worker/ops/roi_align.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "worker/ops/cuda_dispatch.h"

namespace muster::ops {
namespace {

// Everything but the features: one argument without gradient.
struct Regions {
  at::Tensor rois;
  at::Tensor levels;
  std::vector<double> spatial_scales;
  RoiAlignParameters parameters;
};

// One level's map as a (N, H, W, C) array, so that a tap is one run of C numbers.
struct ChannelsLastMap {
  int64_t images;
  int height;
  int width;
  int64_t channels;
};

// Calls visit(offset of the tap's channels in the map, weight) for each tap of each point of the
// bin.
template <typename T, typename Visit>
inline void VisitBin(const RoiGrid<T>& grid, int bin_y, int bin_x, const ChannelsLastMap& map,
                     int64_t image, Visit visit) {
  const int64_t plane = image * map.height * map.width;
  for (int point_y = 0; point_y < grid.points_y; ++point_y) {
    const T y = SamplingCoordinate(grid.start_y, grid.bin_height, bin_y, point_y, grid.points_y);
    for (int point_x = 0; point_x < grid.points_x; ++point_x) {
      const T x = SamplingCoordinate(grid.start_x, grid.bin_width, bin_x, point_x, grid.points_x);
      const BilinearTaps<T> taps = MakeBilinearTaps(y, x, map.height, map.width);
      if (taps.inside) visit(taps, plane);
    }
  }
}

template <typename T>
RoiGrid<T> GridOf(const T* roi, double spatial_scale, const RoiAlignParameters& parameters) {
  return MakeRoiGrid(roi[1], roi[2], roi[3], roi[4], static_cast<T>(spatial_scale), parameters);
}

int64_t ImageOf(double image, const ChannelsLastMap& map) {
  TORCH_CHECK(image >= 0 && image < static_cast<double>(map.images), "region of image ", image,
              ", but the batch has ", map.images);
  return static_cast<int64_t>(image);
}

template <typename T>
void ForwardRegion(const T* map_data, const ChannelsLastMap& map, const T* roi, double scale,
                   const RoiAlignParameters& parameters, T* sums, T* output) {
  const int64_t channels = map.channels;
  const int pooled = parameters.pooled_size;
  const int64_t bins = static_cast<int64_t>(pooled) * pooled;
  const RoiGrid<T> grid = GridOf(roi, scale, parameters);
  const int64_t image = ImageOf(roi[0], map);
  const T divisor = static_cast<T>(PointsPerBin(grid));
  std::fill(sums, sums + bins * channels, T{0});
  for (int bin_y = 0; bin_y < pooled; ++bin_y) {
    for (int bin_x = 0; bin_x < pooled; ++bin_x) {
      T* sum = sums + (bin_y * pooled + bin_x) * channels;
      VisitBin(grid, bin_y, bin_x, map, image, [&](const BilinearTaps<T>& taps, int64_t plane) {
        const T* a = map_data + (plane + taps.index[0]) * channels;
        const T* b = map_data + (plane + taps.index[1]) * channels;
        const T* c = map_data + (plane + taps.index[2]) * channels;
        const T* d = map_data + (plane + taps.index[3]) * channels;
        const T wa = taps.weight[0], wb = taps.weight[1];
        const T wc = taps.weight[2], wd = taps.weight[3];
        for (int64_t k = 0; k < channels; ++k) {
          sum[k] += wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
        }
      });
    }
  }
  for (int64_t k = 0; k < channels; ++k) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      output[k * bins + bin] = sums[bin * channels + k] / divisor;
    }
  }
}

template <typename T>
void BackwardRegion(const T* grad_output, const ChannelsLastMap& map, const T* roi, double scale,
                    const RoiAlignParameters& parameters, T* scratch, T* grad_map) {
  const int64_t channels = map.channels;
  const int pooled = parameters.pooled_size;
  const int64_t bins = static_cast<int64_t>(pooled) * pooled;
  const RoiGrid<T> grid = GridOf(roi, scale, parameters);
  const int64_t image = ImageOf(roi[0], map);
  const T divisor = static_cast<T>(PointsPerBin(grid));
  for (int64_t k = 0; k < channels; ++k) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      scratch[bin * channels + k] = grad_output[k * bins + bin] / divisor;
    }
  }
  for (int bin_y = 0; bin_y < pooled; ++bin_y) {
    for (int bin_x = 0; bin_x < pooled; ++bin_x) {
      const T* grad = scratch + (bin_y * pooled + bin_x) * channels;
      VisitBin(grid, bin_y, bin_x, map, image, [&](const BilinearTaps<T>& taps, int64_t plane) {
        for (int tap = 0; tap < 4; ++tap) {
          T* target = grad_map + (plane + taps.index[tap]) * channels;
          const T weight = taps.weight[tap];
          for (int64_t k = 0; k < channels; ++k) target[k] += weight * grad[k];
        }
      });
    }
  }
}

ChannelsLastMap MapOf(at::IntArrayRef shape) {
  return {shape[0], static_cast<int>(shape[2]), static_cast<int>(shape[3]), shape[1]};
}

int64_t BinsOf(const RoiAlignParameters& parameters) {
  return static_cast<int64_t>(parameters.pooled_size) * parameters.pooled_size;
}

template <typename T>
void ForwardOnCpu(at::TensorList features, const Regions& regions, at::Tensor* output) {
  std::vector<at::Tensor> maps;
  for (const at::Tensor& f : features) maps.push_back(f.permute({0, 2, 3, 1}).contiguous());
  const T* rois = regions.rois.const_data_ptr<T>();
  const int64_t* levels = regions.levels.const_data_ptr<int64_t>();
  T* out = output->mutable_data_ptr<T>();
  const int64_t per_region = output->size(1) * BinsOf(regions.parameters);
  std::vector<T> sums(static_cast<size_t>(per_region));
  for (int64_t r = 0; r < regions.rois.size(0); ++r) {
    const auto level = static_cast<size_t>(levels[r]);
    ForwardRegion(maps[level].const_data_ptr<T>(), MapOf(features[level].sizes()), rois + r * 5,
                  regions.spatial_scales[level], regions.parameters, sums.data(),
                  out + r * per_region);
  }
}

template <typename T>
void BackwardOnCpu(const at::Tensor& grad_output, const Regions& regions,
                   std::vector<at::Tensor>* grads) {
  std::vector<at::Tensor> maps;
  for (const at::Tensor& g : *grads) {
    maps.push_back(at::zeros({g.size(0), g.size(2), g.size(3), g.size(1)}, g.options()));
  }
  const T* rois = regions.rois.const_data_ptr<T>();
  const int64_t* levels = regions.levels.const_data_ptr<int64_t>();
  const T* grad = grad_output.const_data_ptr<T>();
  const int64_t per_region = grad_output.size(1) * BinsOf(regions.parameters);
  std::vector<T> scratch(static_cast<size_t>(per_region));
  for (int64_t r = 0; r < regions.rois.size(0); ++r) {
    const auto level = static_cast<size_t>(levels[r]);
    BackwardRegion(grad + r * per_region, MapOf((*grads)[level].sizes()), rois + r * 5,
                   regions.spatial_scales[level], regions.parameters, scratch.data(),
                   maps[level].mutable_data_ptr<T>());
  }
  for (size_t i = 0; i < maps.size(); ++i) (*grads)[i].copy_(maps[i].permute({0, 3, 1, 2}));
}

template <typename T>
void ForwardOnCuda(at::TensorList features, const Regions& regions, at::Tensor* output) {
  const CudaKernels& kernels = RequireCudaKernels();
  void* stream = kernels.current_stream(output->device().index());
  for (size_t level = 0; level < features.size(); ++level) {
    const at::Tensor map = features[level].contiguous();
    CheckLaunch("roi_align_forward",
                CudaKernelsFor<T>(kernels).roi_align_forward(
                    map.const_data_ptr<T>(), map.size(1), static_cast<int>(map.size(2)),
                    static_cast<int>(map.size(3)), regions.rois.const_data_ptr<T>(),
                    regions.levels.const_data_ptr<int64_t>(), static_cast<int64_t>(level),
                    regions.rois.size(0), static_cast<T>(regions.spatial_scales[level]),
                    regions.parameters, output->mutable_data_ptr<T>(), stream));
  }
}

template <typename T>
void BackwardOnCuda(const at::Tensor& grad_output, const Regions& regions,
                    std::vector<at::Tensor>* grads) {
  const CudaKernels& kernels = RequireCudaKernels();
  void* stream = kernels.current_stream(grad_output.device().index());
  for (size_t level = 0; level < grads->size(); ++level) {
    at::Tensor& grad = (*grads)[level];
    grad.zero_();
    CheckLaunch("roi_align_backward",
                CudaKernelsFor<T>(kernels).roi_align_backward(
                    grad_output.const_data_ptr<T>(), grad.size(1), static_cast<int>(grad.size(2)),
                    static_cast<int>(grad.size(3)), regions.rois.const_data_ptr<T>(),
                    regions.levels.const_data_ptr<int64_t>(), static_cast<int64_t>(level),
                    regions.rois.size(0), static_cast<T>(regions.spatial_scales[level]),
                    regions.parameters, grad.mutable_data_ptr<T>(), stream));
  }
}

// `features` is a TensorList because autograd does not look into other containers.
class RoiAlignFunction : public torch::autograd::Function<RoiAlignFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, at::TensorList features,
                            const Regions& regions) {
    const int64_t pooled = regions.parameters.pooled_size;
    at::Tensor output = at::empty({regions.rois.size(0), features[0].size(1), pooled, pooled},
                                  features[0].options());
    AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), "RoiAlign", [&] {
      if (output.device().is_cpu()) {
        ForwardOnCpu<scalar_t>(features, regions, &output);
      } else {
        ForwardOnCuda<scalar_t>(features, regions, &output);
      }
    });
    std::vector<int64_t> shapes;
    for (const at::Tensor& f : features)
      shapes.insert(shapes.end(), f.sizes().begin(), f.sizes().end());
    const RoiAlignParameters& p = regions.parameters;
    ctx->save_for_backward({regions.rois, regions.levels});
    ctx->saved_data["shapes"] = shapes;
    ctx->saved_data["spatial_scales"] = regions.spatial_scales;
    ctx->saved_data["parameters"] =
        std::vector<double>{static_cast<double>(p.pooled_size),
                            static_cast<double>(p.sampling_ratio), p.offset, p.minimum_size};
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const std::vector<double> p = ctx->saved_data["parameters"].toDoubleVector();
    const Regions regions{saved[0],
                          saved[1],
                          ctx->saved_data["spatial_scales"].toDoubleVector(),
                          {static_cast<int>(p[0]), static_cast<int>(p[1]), p[2], p[3]}};
    const std::vector<int64_t> shapes = ctx->saved_data["shapes"].toIntVector();
    const at::Tensor grad_output = grad_outputs[0].contiguous();
    std::vector<at::Tensor> grads;
    for (size_t i = 0; i < shapes.size(); i += 4) {
      grads.push_back(at::empty({shapes[i], shapes[i + 1], shapes[i + 2], shapes[i + 3]},
                                grad_output.options()));
    }
    AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), "RoiAlign", [&] {
      if (grad_output.device().is_cpu()) {
        BackwardOnCpu<scalar_t>(grad_output, regions, &grads);
      } else {
        BackwardOnCuda<scalar_t>(grad_output, regions, &grads);
      }
    });
    grads.emplace_back();  // of the regions
    return grads;
  }
};

template <typename T>
void FillLevels(const at::Tensor& rois, int64_t num_levels, at::Tensor* levels) {
  const T* roi = rois.const_data_ptr<T>();
  int64_t* out = levels->mutable_data_ptr<int64_t>();
  for (int64_t r = 0; r < rois.size(0); ++r, roi += 5) {
    const T scale = std::sqrt((roi[3] - roi[1]) * (roi[4] - roi[2]));
    const T level = std::floor(std::log2(scale / T{56} + static_cast<T>(1e-6)));
    // Written so that NaN gives level 0.
    const T last = static_cast<T>(num_levels - 1);
    out[r] = level > 0 ? static_cast<int64_t>(std::min(level, last)) : 0;
  }
}

}  // namespace

at::Tensor RoiAlign(const std::vector<at::Tensor>& features, const at::Tensor& rois,
                    const at::Tensor& levels, const std::vector<double>& spatial_scales,
                    const RoiAlignParameters& parameters) {
  TORCH_CHECK(!features.empty() && features.size() == spatial_scales.size(),
              "RoiAlign needs one spatial scale a feature map");
  TORCH_CHECK(
      rois.dim() == 2 && rois.size(1) == 5 && levels.dim() == 1 && levels.size(0) == rois.size(0),
      "rois must be (R, 5) and levels (R), not ", rois.sizes(), " and ", levels.sizes());
  for (const at::Tensor& f : features) {
    TORCH_CHECK(f.dim() == 4 && f.size(1) == features[0].size(1) &&
                    f.scalar_type() == rois.scalar_type() && f.device() == rois.device(),
                "feature maps must be (N, C, H, W) of one C and of the rois' dtype and device");
  }
  TORCH_CHECK(
      levels.numel() == 0 || (levels.min().item<int64_t>() >= 0 &&
                              levels.max().item<int64_t>() < static_cast<int64_t>(features.size())),
      "a region's level is outside 0 .. ", features.size() - 1);
  return RoiAlignFunction::apply(
      at::TensorList(features),
      Regions{rois.contiguous(), levels.contiguous(), spatial_scales, parameters});
}

at::Tensor RoiLevels(const at::Tensor& rois, int64_t num_levels) {
  const at::Tensor host = rois.cpu().contiguous();
  at::Tensor levels = at::empty({host.size(0)}, at::kLong);
  AT_DISPATCH_FLOATING_TYPES(host.scalar_type(), "RoiLevels",
                             [&] { FillLevels<scalar_t>(host, num_levels, &levels); });
  return levels.to(rois.device());
}

}  // namespace muster::ops
