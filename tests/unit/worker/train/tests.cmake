foreach(name checkpoint_writer optimizer pth_file safetensors_file worker_reporter)
  muster_test(SRC unit/worker/train/${name}_test.cc LABELS unit TORCH
    DEPS muster::worker_train muster::testing)
endforeach()
muster_test(SRC unit/worker/train/train_program_test.cc LABELS integration TIMEOUT 600
  PROGRAMS muster-trainer
  DEPS muster::worker_data muster::tiny_coco muster::process absl::strings absl::time
    nlohmann_json::nlohmann_json)
