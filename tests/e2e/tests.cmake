set(MUSTER_PROGRAMS muster muster-coordinator muster-worker muster-trainer)
muster_test(SRC e2e/cluster_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster muster::base)
muster_test(SRC e2e/hang_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster)
muster_test(SRC e2e/moving_jobs_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster nlohmann_json::nlohmann_json)
muster_test(SRC e2e/prometheus_test.cc LABELS e2e TIMEOUT 300 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster nlohmann_json::nlohmann_json PkgConfig::CPPHTTPLIB)
muster_test(SRC e2e/several_hosts_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::host_cluster)
# Half an hour, and the end of its jobs.
muster_test(SRC e2e/soak_test.cc LABELS full TIMEOUT 3600 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster muster::base PkgConfig::CPPHTTPLIB)
muster_test(SRC e2e/failover_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster muster::postgres)
muster_test(SRC e2e/growth_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster)
