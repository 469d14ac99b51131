#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "worker/dist/communicator.h"
#include "worker/model/batch.h"

namespace muster::train {

// The parts of the loss, in the order of StepVote::losses.
inline constexpr std::array<const char*, 4> kLossNames = {"loss_rpn_cls", "loss_rpn_bbox",
                                                          "loss_cls", "loss_bbox"};

// What a rank brings to the agreement on one forward pass.
struct StepVote {
  std::array<double, 4> losses = {};
  // It was asked to stop after the running step.
  bool stop = false;
  // It thinks that a checkpoint is due.
  bool checkpoint = false;

  bool finite() const;
};

// What all ranks know after it, the same on each.
struct StepAgreement {
  std::array<double, 4> losses = {};  // means over the ranks
  bool stop = false;                  // any rank was asked to
  bool checkpoint = false;            // any rank thinks so
  std::vector<int> not_finite;        // ranks whose loss is not

  double total() const;
  // Takes one of `passes` passes into the step's: the losses become means over the passes.
  void AddPass(const StepAgreement& pass, int64_t passes);
};

// The values of a loss, read from the device at once.
std::array<double, 4> LossValues(const model::LossResult& losses);

// One small all-reduce. After it either all ranks go on with the step, or none does.
StepAgreement Agree(const StepVote& vote, dist::Communicator& control);

}  // namespace muster::train
