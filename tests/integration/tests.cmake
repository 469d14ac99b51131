muster_test(SRC integration/secure_cluster_test.cc LABELS integration DEPS muster::process muster::testing
  muster::certificate_authority PkgConfig::CPPHTTPLIB nlohmann_json::nlohmann_json PROGRAMS muster muster-coordinator muster-worker)
muster_test(SRC integration/network_test.cc LABELS integration TIMEOUT 300 RESOURCE_LOCK cluster
  PROGRAMS muster muster-coordinator muster-worker
  DEPS muster::host_cluster)
