#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "muster/v1/progress.pb.h"
#include "worker/eval/coco_eval.h"
#include "worker/train/progress_bar.h"

namespace muster::train {

// One finished step, as rank 0 knows it.
struct StepRecord {
  int64_t step = 0;  // from 1
  int epoch = 1;     // the running one, from 1
  int64_t step_in_epoch = 0;
  std::array<double, 4> losses = {};  // step_agreement.h's order
  double loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  int images = 0;  // of all ranks
  absl::Duration duration;
  absl::Duration data_duration;
};

// Rank 0's record of a run: metrics.jsonl, one line a step and one an evaluation, and about every
// 10 seconds or 50 steps a line to standard error in mmdetection's form; on a terminal also a
// progress bar.
class TrainingLog {
 public:
  struct Options {
    std::filesystem::path folder;
    int total_epochs = 0;
    int64_t steps_per_epoch = 0;
    int64_t total_steps = 0;
  };

  // Keeps the lines of metrics.jsonl up to `resume_step`: later ones will come again.
  static absl::StatusOr<std::unique_ptr<TrainingLog>> Open(const Options& options,
                                                           int64_t resume_step);

  void AddStep(const StepRecord& record);
  // Moves the progress bar of a running evaluation.
  void ShowEvaluation(int64_t done, int64_t total);
  void AddEvaluation(const eval::CocoResult& result, int epoch, int64_t step);

  // Over the last steps; 0 before the first.
  double images_per_second() const;
  absl::Duration eta(int64_t step) const;

 private:
  TrainingLog(const Options& options, std::ofstream file);
  void PrintLine(const StepRecord& record);

  const Options options_;
  std::ofstream file_;
  ProgressBar bar_{""};
  int bar_epoch_ = -1;  // that it shows; 0: an evaluation
  // Since the last line.
  int steps_ = 0;
  StepRecord sums_;
  // Exponential means over about 20 steps.
  double seconds_per_step_ = 0;
  double images_per_step_ = 0;
};

}  // namespace muster::train
