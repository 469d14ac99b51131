#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "worker/model/faster_rcnn.h"

namespace muster::model {

// What a model is made of, counted from its structure.
struct Inspection {
  int64_t parameters = 0;  // numbers
  int64_t parameter_tensors = 0;
  int64_t state_entries = 0;  // parameters and buffers: keys of a checkpoint
  // Numbers of parameters below each child of the detector ("backbone", ...).
  std::map<std::string, int64_t> parameters_by_part;
  // Layers by kind: "Conv2d", "Linear", "BatchNorm".
  std::map<std::string, int64_t> layers;
  int64_t batch_norm_channels = 0;
  // Collectives of synchronised BatchNorm in one training step, forward and backward; 0 for BN and
  // with norm_eval.
  int64_t sync_bn_collectives_per_step = 0;
  // float32, without activations.
  int64_t parameter_bytes = 0;
  int64_t gradient_bytes = 0;
  int64_t momentum_bytes = 0;
  int64_t buffer_bytes = 0;
};

Inspection Inspect(FasterRCNN& model);

}  // namespace muster::model
