muster_test(SRC unit/worker/model/faster_rcnn_test.cc LABELS unit TORCH TIMEOUT 120 DEPS muster::parity_support)
