muster_test(SRC unit/worker/eval/coco_eval_test.cc LABELS unit
  DEPS muster::worker_eval muster::testing nlohmann_json::nlohmann_json)
muster_test(SRC unit/worker/eval/coco_files_test.cc LABELS unit DEPS muster::worker_eval muster::testing)
muster_test(SRC unit/worker/eval/pycocotools_cases_test.cc LABELS unit parity
  DEPS muster::worker_eval muster::testing nlohmann_json::nlohmann_json)
