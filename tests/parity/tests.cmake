muster_test(SRC parity/tiny_test_case_test.cc LABELS parity TORCH DEPS muster::parity_support)
