#include "worker/train/step_agreement.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace muster::train {

bool StepVote::finite() const {
  return std::all_of(losses.begin(), losses.end(), [](double loss) { return std::isfinite(loss); });
}

double StepAgreement::total() const { return std::accumulate(losses.begin(), losses.end(), 0.0); }

void StepAgreement::AddPass(const StepAgreement& pass, int64_t passes) {
  for (size_t i = 0; i < losses.size(); ++i) {
    losses[i] += pass.losses[i] / static_cast<double>(passes);
  }
  stop = stop || pass.stop;
  checkpoint = checkpoint || pass.checkpoint;
}

std::array<double, 4> LossValues(const model::LossResult& losses) {
  const at::Tensor values = at::stack({losses.loss_rpn_cls.detach(), losses.loss_rpn_bbox.detach(),
                                       losses.loss_cls.detach(), losses.loss_bbox.detach()})
                                .to(at::kCPU, at::kDouble);
  std::array<double, 4> result;
  std::copy_n(values.const_data_ptr<double>(), result.size(), result.begin());
  return result;
}

StepAgreement Agree(const StepVote& vote, dist::Communicator& control) {
  constexpr size_t kFlags = 6;  // losses, stop, checkpoint; then one a rank: not finite
  std::vector<double> values(kFlags + static_cast<size_t>(control.size()), 0.0);
  const bool finite = vote.finite();
  if (finite) std::copy(vote.losses.begin(), vote.losses.end(), values.begin());
  values[4] = vote.stop ? 1 : 0;
  values[5] = vote.checkpoint ? 1 : 0;
  values[kFlags + static_cast<size_t>(control.rank())] = finite ? 0 : 1;

  control.AllReduceSum(
      torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble));

  StepAgreement agreement;
  for (size_t i = 0; i < agreement.losses.size(); ++i) {
    agreement.losses[i] = values[i] / control.size();
  }
  agreement.stop = values[4] > 0;
  agreement.checkpoint = values[5] > 0;
  for (int rank = 0; rank < control.size(); ++rank) {
    if (values[kFlags + static_cast<size_t>(rank)] > 0) agreement.not_finite.push_back(rank);
  }
  return agreement;
}

}  // namespace muster::train
