muster_test(SRC unit/worker/ops/boxes_test.cc LABELS unit TORCH DEPS muster::worker_ops)
muster_test(SRC unit/worker/ops/roi_align_test.cc LABELS unit TORCH DEPS muster::worker_ops)
