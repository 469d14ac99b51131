muster_test(SRC unit/worker/daemon/allocation_fetch_test.cc LABELS unit DEPS muster::worker_daemon muster::testing
  muster::pth_builder muster::process)
muster_test(SRC unit/worker/daemon/allocation_manager_test.cc LABELS unit DEPS muster::worker_daemon muster::testing
  muster::pth_builder muster::process)
muster_test(SRC unit/worker/daemon/checkpoint_fetcher_test.cc LABELS unit DEPS muster::worker_daemon muster::testing
  muster::pth_builder)
muster_test(SRC unit/worker/daemon/checkpoint_server_test.cc LABELS unit DEPS muster::worker_daemon muster::testing
  muster::pth_builder muster::process)
muster_test(SRC unit/worker/daemon/collective_environment_test.cc LABELS unit DEPS muster::worker_daemon muster::testing)
muster_test(SRC unit/worker/daemon/data_access_test.cc LABELS unit DEPS muster::worker_daemon muster::testing)
muster_test(SRC unit/worker/daemon/diagnosis_test.cc LABELS unit DEPS muster::worker_daemon muster::testing muster::process
  PROGRAMS muster-worker)
muster_test(SRC unit/worker/daemon/network_interfaces_test.cc LABELS unit DEPS muster::worker_daemon)
muster_test(SRC unit/worker/daemon/network_probe_test.cc LABELS unit DEPS muster::worker_daemon muster::process)
muster_test(SRC unit/worker/daemon/outbox_test.cc LABELS unit DEPS muster::worker_daemon muster::testing)
muster_test(SRC unit/worker/daemon/progress_board_test.cc LABELS unit DEPS muster::worker_daemon)
muster_test(SRC unit/worker/daemon/process_trainer_launcher_test.cc LABELS unit DEPS muster::worker_daemon muster::testing
  muster::process PROGRAMS muster-worker)
muster_test(SRC unit/worker/daemon/scheduled_events_poller_test.cc LABELS unit DEPS muster::worker_daemon muster::testing
  muster::process PkgConfig::CPPHTTPLIB)
muster_test(SRC unit/worker/daemon/scheduled_events_test.cc LABELS unit DEPS muster::worker_daemon)
# GCC 12 is wrong about what GTest does to print a message (its bug 105651).
set_source_files_properties(unit/worker/daemon/scheduled_events_test.cc unit/worker/daemon/checkpoint_fetcher_test.cc
  PROPERTIES COMPILE_OPTIONS -Wno-restrict)
muster_test(SRC unit/worker/daemon/stack_reader_test.cc LABELS unit DEPS muster::worker_daemon muster::process)
muster_test(SRC unit/worker/daemon/worker_metrics_test.cc LABELS unit DEPS muster::worker_daemon muster::testing)
muster_test(SRC unit/worker/daemon/worker_test.cc LABELS unit DEPS muster::worker_daemon muster::testing muster::process
  PkgConfig::CPPHTTPLIB PROGRAMS muster-worker)
muster_test(SRC unit/worker/daemon/protocol_test.cc LABELS unit DEPS muster::worker_daemon muster::testing)
muster_test(SRC unit/worker/daemon/full_disk_test.cc LABELS unit DEPS muster::worker_daemon muster::testing muster::process
  PROGRAMS muster-worker)
muster_test(SRC unit/worker/daemon/job_pruner_test.cc LABELS unit DEPS muster::worker_daemon muster::testing)
