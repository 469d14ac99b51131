foreach(name checkpoint_writer optimizer pth_writer starting_weights worker_reporter)
  muster_test(SRC unit/worker/train/${name}_test.cc LABELS unit TORCH
    DEPS muster::worker_train muster::pth_builder muster::testing)
endforeach()
foreach(name gradient_accumulation test_time_augmentation)
  muster_test(SRC unit/worker/train/${name}_test.cc LABELS unit TORCH TIMEOUT 120
    DEPS muster::worker_train muster::parity_support muster::testing muster::tiny_coco nlohmann_json::nlohmann_json opencv_core
      opencv_imgcodecs)
endforeach()
muster_library(NAME train_program TESTONLY LAYER 91
  HDRS unit/worker/train/train_program.h
  SRCS unit/worker/train/train_program.cc
  DEPS muster::tiny_coco muster::process absl::strings absl::time GTest::gtest
    nlohmann_json::nlohmann_json)
foreach(name exact_training shared_evaluation train_program)
  muster_test(SRC unit/worker/train/${name}_test.cc LABELS integration TIMEOUT 600
    PROGRAMS muster-trainer DEPS muster::train_program)
endforeach()
muster_test(SRC unit/worker/train/loss_trace_test.cc LABELS golden TIMEOUT 300
  PROGRAMS muster-trainer
  DEPS muster::train_program muster::testing)
