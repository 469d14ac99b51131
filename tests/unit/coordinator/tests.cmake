muster_test(SRC unit/coordinator/core/backfill_test.cc LABELS unit TIMEOUT 180 DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/checkpoint_fetch_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/hang_attribution_test.cc LABELS unit DEPS muster::coordinator_core)
muster_test(SRC unit/coordinator/core/hang_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/hang_watch_test.cc LABELS unit DEPS muster::coordinator_core)
muster_test(SRC unit/coordinator/core/job_life_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/job_limits_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/lineage_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/node_life_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/node_upkeep_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/old_records_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/placement_test.cc LABELS unit DEPS muster::coordinator_core)
muster_test(SRC unit/coordinator/core/queue_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/scheduling_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/retention_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/straggler_watch_test.cc LABELS unit DEPS muster::coordinator_core)
muster_test(SRC unit/coordinator/service/api_test.cc LABELS unit DEPS muster::coordinator_service muster::small_job muster::worker_session
  PkgConfig::CPPHTTPLIB)
muster_test(SRC unit/coordinator/service/protocol_test.cc LABELS unit DEPS muster::coordinator_service muster::small_job
  muster::worker_session)
muster_test(SRC unit/coordinator/service/node_service_test.cc LABELS unit DEPS muster::coordinator_service muster::process
  muster::small_job muster::worker_session PkgConfig::CPPHTTPLIB)
muster_test(SRC unit/coordinator/store/state_store_contract_test.cc LABELS unit DEPS muster::coordinator_store muster::postgres
  muster::testing)
muster_test(SRC unit/coordinator/store/sqlite_state_store_test.cc LABELS unit DEPS muster::coordinator_store muster::testing
  SQLite::SQLite3)
muster_test(SRC unit/coordinator/store/postgres_leader_lease_test.cc LABELS unit DEPS muster::coordinator_store
  muster::postgres muster::testing)
# A process for each write.
muster_test(SRC unit/coordinator/store/kill_test.cc LABELS unit TIMEOUT 300 DEPS muster::coordinator_store muster::postgres
  muster::testing SQLite::SQLite3)
muster_test(SRC unit/coordinator/service/access_control_test.cc LABELS unit DEPS muster::coordinator_service muster::testing)
muster_test(SRC unit/coordinator/service/access_test.cc LABELS unit DEPS muster::coordinator_service muster::worker_session
  muster::certificate_authority muster::small_job muster::testing PkgConfig::CPPHTTPLIB)
muster_test(SRC unit/coordinator/service/leader_test.cc LABELS unit TIMEOUT 180 DEPS muster::base muster::postgres
  muster::process muster::small_job muster::testing muster::worker_session PkgConfig::CPPHTTPLIB
  PROGRAMS muster-coordinator muster)
muster_test(SRC unit/coordinator/service/list_events_test.cc LABELS unit DEPS muster::coordinator_service muster::small_job)
# GCC 12 is wrong about what GTest does to print a message (its bug 105651).
set_source_files_properties(unit/coordinator/service/list_events_test.cc PROPERTIES COMPILE_OPTIONS -Wno-restrict)
muster_test(SRC unit/coordinator/service/store_faults_test.cc LABELS unit DEPS muster::coordinator_service
  muster::faulty_state_store muster::small_job muster::testing muster::worker_session)
muster_test(SRC unit/coordinator/service/program_test.cc LABELS unit DEPS muster::base muster::proto_grpc muster::process
  muster::small_job muster::testing PROGRAMS muster-coordinator)
# Thousands of simulated events; several times slower under a sanitizer.
muster_test(SRC unit/coordinator/core/simulation_test.cc LABELS unit TIMEOUT 600 DEPS muster::cluster_driver)
add_test(NAME unit.coordinator.core.simulation_test.full COMMAND unit.coordinator.core.simulation_test
  --gtest_filter=SimulationTest.*)
set_tests_properties(unit.coordinator.core.simulation_test.full PROPERTIES LABELS full TIMEOUT 14400
  ENVIRONMENT "MUSTER_SIMULATION_FULL=1")
muster_test(SRC unit/coordinator/core/abort_test.cc LABELS unit DEPS muster::cluster_driver)
muster_test(SRC unit/coordinator/core/job_index_test.cc LABELS unit DEPS muster::cluster_driver)
