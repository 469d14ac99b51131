muster_test(SRC unit/proto/wire_lock_test.cc LABELS unit DEPS muster::proto muster::base muster::testing)
