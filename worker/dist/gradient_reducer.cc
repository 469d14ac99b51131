#include "worker/dist/gradient_reducer.h"

#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <utility>

#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "common/base/clock.h"

namespace muster::dist {
namespace {

// The bucket that is reduced first is small, so that the network starts early.
constexpr int64_t kFirstBucketBytes = 1024 * 1024;

std::unique_ptr<c10d::Reducer> MakeReducer(const std::vector<at::Tensor>& parameters,
                                           const c10::intrusive_ptr<c10d::ProcessGroup>& group,
                                           int64_t bucket_cap_bytes) {
  const int64_t first_bucket_bytes = std::min(kFirstBucketBytes, bucket_cap_bytes);
  const std::vector<bool> expect_sparse(parameters.size(), false);
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
      parameters, {static_cast<size_t>(first_bucket_bytes), static_cast<size_t>(bucket_cap_bytes)},
      expect_sparse);
  return std::make_unique<c10d::Reducer>(
      parameters, std::move(buckets), group, expect_sparse, bucket_cap_bytes,
      /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/true,
      /*param_names=*/std::unordered_map<size_t, std::string>{}, first_bucket_bytes,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
      /*bucket_bytes_cap_list=*/std::vector<int64_t>{});
}

}  // namespace

GradientReducer::GradientReducer(std::vector<at::Tensor> parameters, const ProcessGroups& groups,
                                 int64_t bucket_cap_bytes)
    : parameters_(std::move(parameters)) {
  TORCH_CHECK(!parameters_.empty(), "GradientReducer: no parameters");
  for (const at::Tensor& parameter : parameters_) {
    TORCH_CHECK(parameter.is_leaf() && parameter.requires_grad(),
                "GradientReducer: every parameter must be a leaf that requires a gradient");
    parameter.mutable_grad().reset();
  }
  if (groups.size() == 1) return;
  reducer_ = MakeReducer(parameters_, groups.gradients(), bucket_cap_bytes);

  // The Reducer orders its buckets anew after the first backward, by when gradients came. A
  // backward over nothing but the parameters, whose gradients come last to first and are zero, gets
  // this over with before step 1 and needs no batch and no running statistics.
  BeginStep();
  at::Tensor loss = at::zeros({}, parameters_.front().options());
  for (const at::Tensor& parameter : parameters_) loss = loss + parameter.sum() * 0;
  Backward(loss);
  BeginStep();
  for (const at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
}

GradientReducer::~GradientReducer() = default;

void GradientReducer::BeginStep() {
  if (reducer_ == nullptr) return;
  try {
    reducer_->rebuild_buckets();
    reducer_->prepare_for_forward();
  } catch (...) {
    RethrowAsCollectiveLost("fixing the gradient buckets");
  }
}

void GradientReducer::Accumulate(const at::Tensor& loss) {
  // The Reducer's hooks on the parameters do nothing between the end of a Backward and the next
  // prepare_for_backward, as in DistributedDataParallel.no_sync(). The last pass adds to .grad()
  // before its hook copies that into the bucket, so the bucket gets the whole sum.
  loss.backward();
}

void GradientReducer::Backward(const at::Tensor& loss) {
  if (reducer_ == nullptr) {
    loss.backward();
    return;
  }
  try {
    reducer_->prepare_for_backward({loss});
    computed_ = base::MonotonicNow();
    // The engine calls back when all gradients are there, in the order of the requests: the Reducer
    // makes its own, in which it waits for the all-reduces, later.
    loss.register_hook([this](const at::Tensor&) {
      torch::autograd::Engine::get_default_engine().queue_callback(
          [this] { computed_ = base::MonotonicNow(); });
    });
    loss.backward();
    waited_ += base::MonotonicNow() - computed_;
    // Without this, a parameter that got no gradient is noticed only in the next step, when this
    // one's gradients have been used.
    reducer_->check_finalized();
  } catch (...) {
    RethrowAsCollectiveLost("averaging the gradients");
  }
}

}  // namespace muster::dist
