#pragma once

#include <torch/types.h>

namespace muster::model {

// Switches torch.autocast (convolutions and matrix products in bfloat16) on or off for operators
// on `device` called by this thread, until the end of the scope; scopes nest. The trainer holds one
// round FasterRCNN::Loss; backward needs none, since every operator's gradient runs in the type
// that the operator ran in. The gradients of float32 parameters are float32.
class AutocastGuard {
 public:
  AutocastGuard(c10::DeviceType device, bool enabled);
  // Drops the bfloat16 copies of the parameters when the outermost scope ends, so that the next
  // step sees the updated ones.
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  const c10::DeviceType device_;
  const bool was_enabled_;
  const at::ScalarType was_type_;
};

// Float32 where `tensor` is of a 16-bit floating type, itself otherwise: the border before losses,
// boxes, RoIAlign and NMS, which are computed in float32 at least.
at::Tensor AtLeastFloat32(const at::Tensor& tensor);

}  // namespace muster::model
