#include "worker/ops/nms.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "worker/ops/cuda_dispatch.h"
#include "worker/ops/nms_arithmetic.h"

namespace muster::ops {
namespace {

// Arrays rather than structures: the inner loop becomes vector code.
template <typename T>
struct BoxColumns {
  explicit BoxColumns(size_t count) : x1(count), y1(count), x2(count), y2(count), area(count) {}
  void Set(size_t i, const NmsBox<T>& box) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
    area[i] = box.area;
  }
  std::vector<T> x1, y1, x2, y2, area;
};

// `order`: indices of one group, best first. Appends those that stay.
template <typename T>
void SuppressOnCpu(const T* boxes, const std::vector<int64_t>& order, T threshold,
                   std::vector<int64_t>* kept) {
  const size_t count = order.size();
  BoxColumns<T> columns(count);
  for (size_t i = 0; i < count; ++i) columns.Set(i, MakeNmsBox(boxes + order[i] * 4));
  std::vector<uint8_t> suppressed(count, 0);
  const T* x1 = columns.x1.data();
  const T* y1 = columns.y1.data();
  const T* x2 = columns.x2.data();
  const T* y2 = columns.y2.data();
  const T* area = columns.area.data();
  uint8_t* out = suppressed.data();
  for (size_t i = 0; i < count; ++i) {
    if (out[i] != 0) continue;
    kept->push_back(order[i]);
    const NmsBox<T> box{x1[i], y1[i], x2[i], y2[i], area[i]};
    for (size_t j = i + 1; j < count; ++j) {
      const NmsBox<T> other{x1[j], y1[j], x2[j], y2[j], area[j]};
      out[j] |= static_cast<uint8_t>(Suppresses(box, other, threshold));
    }
  }
}

at::Tensor FromIndices(const std::vector<int64_t>& indices) {
  return at::tensor(indices, at::kLong);
}

at::Tensor NmsOnCuda(const at::Tensor& boxes, const at::Tensor& scores, double iou_threshold) {
  const at::Tensor order = DescendingOrder(scores);
  const at::Tensor sorted = boxes.index_select(0, order).contiguous();
  const int64_t count = sorted.size(0);
  const int64_t words = (count + 63) / 64;
  const at::Tensor mask = at::empty({count, words}, order.options());
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "Nms", [&] {
    const CudaKernels& kernels = RequireCudaKernels();
    CheckLaunch("nms",
                CudaKernelsFor<scalar_t>(kernels).nms_mask(
                    sorted.const_data_ptr<scalar_t>(), count, static_cast<scalar_t>(iou_threshold),
                    reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>()),
                    kernels.current_stream(boxes.device().index())));
  });
  const at::Tensor host = mask.cpu();
  const int64_t* bits = host.const_data_ptr<int64_t>();
  std::vector<uint64_t> removed(static_cast<size_t>(words), 0);
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < count; ++i) {
    if ((removed[static_cast<size_t>(i / 64)] >> (i % 64)) & 1u) continue;
    kept.push_back(i);
    for (int64_t w = 0; w < words; ++w) {
      removed[static_cast<size_t>(w)] |= static_cast<uint64_t>(bits[i * words + w]);
    }
  }
  return order.index_select(0, FromIndices(kept).to(order.device()));
}

void CheckArguments(const at::Tensor& boxes, const at::Tensor& scores) {
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && scores.dim() == 1 &&
                  scores.size(0) == boxes.size(0) && boxes.scalar_type() == scores.scalar_type(),
              "NMS needs boxes (N, 4) and scores (N) of one dtype, not ", boxes.sizes(), " and ",
              scores.sizes());
}

}  // namespace

at::Tensor Nms(const at::Tensor& boxes, const at::Tensor& scores, double iou_threshold) {
  CheckArguments(boxes, scores);
  if (boxes.size(0) == 0) return at::empty({0}, boxes.options().dtype(at::kLong));
  if (!boxes.device().is_cpu()) return NmsOnCuda(boxes, scores, iou_threshold);
  const at::Tensor corners = boxes.contiguous();
  const at::Tensor order = DescendingOrder(scores);
  const int64_t* indices = order.const_data_ptr<int64_t>();
  std::vector<int64_t> kept;
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "Nms", [&] {
    SuppressOnCpu<scalar_t>(corners.const_data_ptr<scalar_t>(),
                            std::vector<int64_t>(indices, indices + order.size(0)),
                            static_cast<scalar_t>(iou_threshold), &kept);
  });
  return FromIndices(kept);
}

at::Tensor BatchedNms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& groups,
                      double iou_threshold) {
  CheckArguments(boxes, scores);
  TORCH_CHECK(groups.sizes() == scores.sizes() && groups.scalar_type() == at::kLong,
              "groups must be int64 of the shape of the scores");
  if (boxes.size(0) == 0) return at::empty({0}, boxes.options().dtype(at::kLong));
  const at::Tensor offsets = groups.to(boxes.scalar_type()) * (boxes.max() + 1);
  const at::Tensor shifted = (boxes + offsets.unsqueeze(1)).contiguous();
  if (!boxes.device().is_cpu()) return NmsOnCuda(shifted, scores, iou_threshold);

  // Shifted groups never overlap, so each is treated by itself: the same result in less work.
  const at::Tensor order = DescendingOrder(scores);
  const at::Tensor group_of = groups.contiguous();
  const int64_t* rank = order.const_data_ptr<int64_t>();
  const int64_t* group = group_of.const_data_ptr<int64_t>();
  std::vector<int64_t> position(static_cast<size_t>(order.size(0)));
  std::iota(position.begin(), position.end(), int64_t{0});
  std::stable_sort(position.begin(), position.end(),
                   [&](int64_t a, int64_t b) { return group[rank[a]] < group[rank[b]]; });
  std::vector<int64_t> place(position.size());
  for (size_t i = 0; i < place.size(); ++i)
    place[static_cast<size_t>(rank[i])] = static_cast<int64_t>(i);
  std::vector<int64_t> kept;
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "BatchedNms", [&] {
    std::vector<int64_t> members;
    for (size_t begin = 0; begin < position.size();) {
      members.clear();
      const int64_t current = group[rank[position[begin]]];
      size_t end = begin;
      for (; end < position.size() && group[rank[position[end]]] == current; ++end) {
        members.push_back(rank[position[end]]);
      }
      SuppressOnCpu<scalar_t>(shifted.const_data_ptr<scalar_t>(), members,
                              static_cast<scalar_t>(iou_threshold), &kept);
      begin = end;
    }
  });
  std::sort(kept.begin(), kept.end(), [&](int64_t a, int64_t b) {
    return place[static_cast<size_t>(a)] < place[static_cast<size_t>(b)];
  });
  return FromIndices(kept);
}

at::Tensor DescendingOrder(const at::Tensor& scores) {
  return std::get<1>(at::sort(scores, /*stable=*/true, 0, /*descending=*/true));
}

}  // namespace muster::ops
