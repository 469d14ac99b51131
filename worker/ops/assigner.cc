#include "worker/ops/assigner.h"

#include <algorithm>

#include "worker/ops/boxes.h"

namespace muster::ops {
namespace {

// (N, 4) and (N), contiguous, in the dtype of the computation.
struct Boxes {
  at::Tensor boxes;
  at::Tensor areas;
};

// Areas are taken in the boxes' own dtype, as mmdetection takes them: against float64 proposals the
// float32 ground truth's are float32 numbers.
Boxes Prepare(const at::Tensor& boxes, at::ScalarType type) {
  const at::Tensor sides = boxes.slice(1, 2, 4) - boxes.slice(1, 0, 2);
  return {boxes.to(type).contiguous(),
          (sides.select(1, 0) * sides.select(1, 1)).to(type).contiguous()};
}

// One ground truth's IoU with every prior.
template <typename T>
void OverlapRow(const Corners<T>& gt, T gt_area, const Corners<T>* priors, const T* areas,
                int64_t count, T* row) {
  for (int64_t i = 0; i < count; ++i) row[i] = IoU(gt, gt_area, priors[i], areas[i]);
}

// Marks the priors inside an ignored box; empty: none.
template <typename T>
std::vector<uint8_t> InsideIgnored(const Corners<T>* priors, const T* areas, int64_t count,
                                   const at::Tensor& ignore, T threshold) {
  std::vector<uint8_t> inside(static_cast<size_t>(count), 0);
  const auto* boxes = reinterpret_cast<const Corners<T>*>(ignore.const_data_ptr<T>());
  for (int64_t k = 0; k < ignore.size(0); ++k) {
    for (int64_t i = 0; i < count; ++i) {
      inside[static_cast<size_t>(i)] |= IoF(priors[i], areas[i], boxes[k]) > threshold ? 1 : 0;
    }
  }
  return inside;
}

template <typename T>
Assignment Assign(const Boxes& priors_and_areas, const Boxes& gt_and_areas,
                  const at::Tensor& ignore, const AssignerOptions& options) {
  const at::Tensor& priors = priors_and_areas.boxes;
  const at::Tensor& gt = gt_and_areas.boxes;
  const T* areas = priors_and_areas.areas.const_data_ptr<T>();
  const T* gt_areas = gt_and_areas.areas.const_data_ptr<T>();
  const int64_t count = priors.size(0);
  const int64_t num_gt = gt.size(0);
  const auto* prior = reinterpret_cast<const Corners<T>*>(priors.const_data_ptr<T>());
  const auto* truth = reinterpret_cast<const Corners<T>*>(gt.const_data_ptr<T>());

  std::vector<uint8_t> ignored;
  if (options.ignore_iof_thr > 0 && ignore.defined() && ignore.size(0) > 0) {
    ignored = InsideIgnored(prior, areas, count, ignore, static_cast<T>(options.ignore_iof_thr));
  }

  Assignment result;
  result.max_overlaps = at::empty({count}, priors.options());
  T* best = result.max_overlaps.mutable_data_ptr<T>();
  // IoUs are at least 0, and ignored priors count as -1 for every ground truth.
  std::fill(best, best + count, T{-1});
  std::vector<int64_t> best_gt(static_cast<size_t>(count), 0);
  std::vector<T> best_of_gt(static_cast<size_t>(num_gt), T{-1});
  std::vector<T> row(static_cast<size_t>(count));
  const auto overlap_row = [&](int64_t g) {
    OverlapRow(truth[g], gt_areas[g], prior, areas, count, row.data());
    if (ignored.empty()) return;
    for (int64_t i = 0; i < count; ++i) {
      if (ignored[static_cast<size_t>(i)]) row[static_cast<size_t>(i)] = T{-1};
    }
  };
  for (int64_t g = 0; g < num_gt; ++g) {
    overlap_row(g);
    T largest{-1};
    for (int64_t i = 0; i < count; ++i) {
      const T overlap = row[static_cast<size_t>(i)];
      largest = std::max(largest, overlap);
      // Strictly greater: the first of equal ground truths wins, as in torch.max.
      if (overlap > best[i]) {
        best[i] = overlap;
        best_gt[static_cast<size_t>(i)] = g;
      }
    }
    best_of_gt[static_cast<size_t>(g)] = largest;
  }

  const T negative = static_cast<T>(options.neg_iou_thr);
  const T positive = static_cast<T>(options.pos_iou_thr);
  result.gt_index.assign(static_cast<size_t>(count), kAssignedIgnored);
  for (int64_t i = 0; i < count; ++i) {
    int64_t& assigned = result.gt_index[static_cast<size_t>(i)];
    if (best[i] >= 0 && best[i] < negative) assigned = kAssignedNegative;
    if (best[i] >= positive) assigned = best_gt[static_cast<size_t>(i)] + 1;
  }
  if (options.match_low_quality) {
    // In this order a later ground truth takes over a prior that ties for both.
    for (int64_t g = 0; g < num_gt; ++g) {
      const T largest = best_of_gt[static_cast<size_t>(g)];
      if (largest < static_cast<T>(options.min_pos_iou)) continue;
      overlap_row(g);
      for (int64_t i = 0; i < count; ++i) {
        if (row[static_cast<size_t>(i)] == largest) result.gt_index[static_cast<size_t>(i)] = g + 1;
      }
    }
  }
  return result;
}

}  // namespace

Assignment AssignMaxIoU(const at::Tensor& priors, const at::Tensor& gt_bboxes,
                        const at::Tensor& gt_bboxes_ignore, const AssignerOptions& options) {
  TORCH_CHECK(priors.dim() == 2 && priors.size(1) == 4 && priors.device().is_cpu(),
              "priors must be (N, 4) on the CPU, not ", priors.sizes());
  TORCH_CHECK(gt_bboxes.dim() == 2 && gt_bboxes.size(1) == 4 && gt_bboxes.device().is_cpu(),
              "ground truth must be (G, 4) on the CPU, not ", gt_bboxes.sizes());
  const at::ScalarType type = at::promote_types(priors.scalar_type(), gt_bboxes.scalar_type());
  if (gt_bboxes.size(0) == 0) {
    Assignment none;
    none.gt_index.assign(static_cast<size_t>(priors.size(0)), kAssignedNegative);
    none.max_overlaps = at::zeros({priors.size(0)}, priors.options().dtype(type));
    return none;
  }
  const at::Tensor ignore =
      gt_bboxes_ignore.defined() ? gt_bboxes_ignore.to(type).contiguous() : gt_bboxes_ignore;
  Assignment result;
  AT_DISPATCH_FLOATING_TYPES(type, "AssignMaxIoU", [&] {
    result = Assign<scalar_t>(Prepare(priors, type), Prepare(gt_bboxes, type), ignore, options);
  });
  return result;
}

}  // namespace muster::ops
