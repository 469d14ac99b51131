# Needs no LibTorch, unlike the rest of this folder.
muster_test(SRC parity/input_cases_test.cc LABELS parity
  DEPS muster::worker_data muster::tiny_coco muster::testing nlohmann_json::nlohmann_json)
