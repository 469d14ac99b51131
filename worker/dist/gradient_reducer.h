#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"

#include "worker/dist/process_groups.h"

namespace c10d {
class Reducer;
}

namespace muster::dist {

// Averages gradients over the ranks while backward still runs (c10d::Reducer, the engine of
// PyTorch's DistributedDataParallel). A step is
//
//   reducer.BeginStep();  forward;  reducer.Backward(loss);  read .grad() of the parameters.
//
// With gradient accumulation it is
//
//   { forward;  reducer.Accumulate(loss / n); }  n - 1 times, without any all-reduce of gradients;
//   reducer.BeginStep();  forward;  reducer.Backward(loss / n);  read .grad().
//
// The buckets are fixed by the constructor and depend on the order and sizes of the parameters
// alone: a resumed run adds in the same order as one that was never interrupted.
class GradientReducer {
 public:
  // Every rank passes the same parameters (leaves that require gradients), in the order of their
  // use in forward; gradients are all-reduced in buckets of up to `bucket_cap_bytes`, from the last
  // parameter to the first. Runs two collectives or more. Gradients that the parameters hold are
  // dropped.
  GradientReducer(std::vector<at::Tensor> parameters, const ProcessGroups& groups,
                  int64_t bucket_cap_bytes);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  void BeginStep();

  // Backpropagates the scalar `loss` and adds its gradients to this rank's own, for the step's
  // Backward to average.
  static void Accumulate(const at::Tensor& loss);

  // Backpropagates the scalar `loss`. Afterwards each parameter's gradient is the mean over the
  // ranks of their losses' gradients (plus what .grad() held before, if it was not zeroed), with
  // the same bits on every rank. Every parameter must take part in every rank's loss: throws
  // c10::Error if one did not. Throws CollectiveLost when a peer is lost.
  void Backward(const at::Tensor& loss);

  // Time that Backward calls have spent, by the wall, from the last of this rank's own work to the
  // end of the last all-reduce. On CUDA only what the host waits.
  absl::Duration waited() const { return waited_; }

 private:
  const std::vector<at::Tensor> parameters_;
  std::unique_ptr<c10d::Reducer> reducer_;  // null in a world of one
  absl::Duration computed_;                 // when the running Backward's own work had ended
  absl::Duration waited_;
};

}  // namespace muster::dist
