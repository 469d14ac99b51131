muster_test(SRC parity/tiny_test_case_test.cc LABELS parity TORCH TIMEOUT 120 DEPS muster::parity_support)
muster_test(SRC parity/tiny_train_case_test.cc LABELS parity TORCH TIMEOUT 240 DEPS muster::parity_support)
muster_test(SRC parity/syncbn_ranks_test.cc LABELS parity TORCH DEPS muster::parity_support muster::worker_dist nlohmann_json::nlohmann_json)
