#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "tests/support/safetensors_file.h"
#include "worker/model/faster_rcnn.h"

namespace muster::testing {

// Compares tensors with a reference program's and prints one line each: the largest difference, and
// how much of the tolerance it uses.
class Comparison {
 public:
  // Relative to the largest absolute value of the expected tensor (a tensor of zeros must be
  // matched by one whose values are at most `relative`).
  explicit Comparison(double relative) : relative_(relative) {}

  // Fails the running test when the shapes differ, or the difference is above the tolerance or not
  // a number.
  void Check(const std::string& name, const at::Tensor& actual, const at::Tensor& expected) const;
  // Must be equal to the bit (dtypes too).
  void CheckEqual(const std::string& name, const at::Tensor& actual,
                  const at::Tensor& expected) const;

 private:
  double relative_;
};

// While one lives, comparisons print nothing.
class QuietComparisons {
 public:
  QuietComparisons();
  ~QuietComparisons();
  QuietComparisons(const QuietComparisons&) = delete;
  QuietComparisons& operator=(const QuietComparisons&) = delete;
};

// Prints a comparison's line, if no QuietComparisons lives.
void PrintComparison(const std::string& line);

// The reference's tensors prefix0, prefix1, ...; and ours against them.
std::vector<at::Tensor> LevelsOf(const SafetensorsFile& reference, const std::string& prefix);
void CheckLevels(const Comparison& compare, const SafetensorsFile& reference,
                 const std::string& prefix, const std::vector<at::Tensor>& actual);

// Levels, pooled features and outputs of the reference's RoIs, over its own maps.
void CheckRoiForward(const Comparison& compare, const SafetensorsFile& reference,
                     model::RoIHead roi_head, const std::vector<at::Tensor>& maps);

// Boxes (N, 4) and their scores (N), best first.
struct RankedBoxes {
  at::Tensor boxes;
  at::Tensor scores;
};

// Compares scores, and the boxes whose score no other one has: the reference ranks with an unstable
// sort, so that among bit-equal scores (anchors over dead features have them) its order depends on
// the CPU. Nine boxes in ten must be without a tie.
void CheckRankedBoxes(const std::string& name, double relative, const RankedBoxes& actual,
                      const RankedBoxes& expected);

// The oracle's model "tiny" (187k parameters, 3 classes) with ApplyDefaults' values of MMDET3.
config::v1::Model TinyModel();
// HRNetV2p of that width, COCO's 80 classes.
config::v1::Model NamedModel(uint32_t width);
// The oracle's "tiny", "w18", "w32", "w40", "w48" or "r50"; throws std::runtime_error for another
// name.
config::v1::Model ModelOfArch(const std::string& arch);

// Copies a state dict (parameters and buffers by name) into the model; fails the running test for a
// name or shape that only one side has.
void LoadState(torch::nn::Module& model, const SafetensorsFile& state);

// What the oracle's "_batch" file holds; images in `type`.
model::TrainBatch ReadBatch(const SafetensorsFile& file, at::ScalarType type);

// The oracle's fingerprint of a tensor, (4) float64: l2 norm, sum, largest absolute value, and
// sum x_i cos(0.7 i + 0.3).
at::Tensor Fingerprint(const at::Tensor& tensor);

// A JSON list of strings, as the oracle keeps in its metadata.
std::vector<std::string> ParseNames(const std::string& json);

}  // namespace muster::testing
