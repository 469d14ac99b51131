#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/train/torch_tensors.h"

namespace muster::train {

// What a file's names say it is.
enum class WeightsKind {
  kMuster,         // a checkpoint of ours
  kMmdetection,    // a detector of mmdetection 2 or 3: the names that ours have too
  kMmdetection06,  // a detector of mmdetection 0.6 or 1: other names, and background is class 0
  kClassifier,     // an ImageNet classifier, of which the backbone is taken
};
// For a person: "mmdetection 3 detector".
absl::string_view NameOf(WeightsKind kind);

// The tensors of a file under our names. Those of a kMmdetection06 detector are converted: fc_cls
// has background last, fc_reg no rows for it. A classifier's backbone has the prefix "backbone.".
struct Weights {
  WeightsKind kind = WeightsKind::kMmdetection;
  NamedTensors tensors;
};

// The kind that the tensors' names tell (never kMuster), and the tensors under our names.
Weights Recognise(NamedTensors tensors);

// Reads a .pth (of any PyTorch) or a .safetensors; which, its first bytes tell. A .pth may be a
// checkpoint with a state_dict or a state_dict itself; a prefix "module." is dropped. NotFound, or
// InvalidArgument that names the file and what is wrong.
absl::StatusOr<Weights> ReadWeights(const std::filesystem::path& path);

// What became of a file's tensors.
struct LoadedWeights {
  WeightsKind kind = WeightsKind::kMmdetection;
  int64_t taken = 0;
  // A classifier's head.
  std::vector<std::string> ignored;
  // A detector's layers for another number of classes, which the module keeps as they were.
  std::vector<std::string> kept_heads;
};

// Starting weights of a run. Of a detector every tensor must be there and fit, except for fc_cls
// and fc_reg of another number of classes, which keep the module's (random) values; of a classifier
// every tensor of the backbone. The count of a BatchNorm's batches may be missing: PyTorch before
// 0.4.1 had none. InvalidArgument lists the first ten names and shapes that do not fit, and leaves
// the module as it was.
absl::StatusOr<LoadedWeights> LoadStartingWeights(const std::filesystem::path& path,
                                                  torch::nn::Module& module);

// One line that says what was recognised, taken and ignored; a warning for heads that stay random.
void LogStartingWeights(const std::filesystem::path& path, const LoadedWeights& loaded);

// A detector to evaluate: every tensor must be there and fit.
absl::Status LoadDetector(const std::filesystem::path& path, torch::nn::Module& module);

}  // namespace muster::train
