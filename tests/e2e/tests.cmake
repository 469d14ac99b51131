set(MUSTER_PROGRAMS muster muster-coordinator muster-worker muster-trainer)
muster_test(SRC e2e/cluster_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster muster::base)
muster_test(SRC e2e/moving_jobs_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster)
muster_test(SRC e2e/prometheus_test.cc LABELS e2e TIMEOUT 300 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::local_cluster nlohmann_json::nlohmann_json PkgConfig::CPPHTTPLIB)
muster_test(SRC e2e/several_hosts_test.cc LABELS e2e TIMEOUT 900 RESOURCE_LOCK cluster PROGRAMS ${MUSTER_PROGRAMS}
  DEPS muster::network_namespaces muster::testing nlohmann_json::nlohmann_json)
