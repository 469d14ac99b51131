muster_test(SRC unit/coordinator/core/job_life_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/job_limits_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/lineage_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/node_life_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/old_records_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/placement_test.cc LABELS unit DEPS muster::coordinator_core)
muster_test(SRC unit/coordinator/core/queue_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/service/api_test.cc LABELS unit DEPS muster::coordinator_service muster::worker_session
  PkgConfig::CPPHTTPLIB)
muster_test(SRC unit/coordinator/store/state_store_contract_test.cc LABELS unit DEPS muster::coordinator_store muster::testing)
muster_test(SRC unit/coordinator/service/program_test.cc LABELS unit DEPS muster::base muster::proto_grpc muster::process
  muster::testing PROGRAMS muster-coordinator)
# Thousands of simulated events; several times slower under a sanitizer.
muster_test(SRC unit/coordinator/core/simulation_test.cc LABELS unit TIMEOUT 300 DEPS muster::cluster_driver)
