foreach(name counter_random endpoint files timer_queue)
  muster_test(SRC unit/common/base/${name}_test.cc LABELS unit DEPS muster::base muster::testing)
endforeach()
foreach(name defaults load validate)
  muster_test(SRC unit/common/config/${name}_test.cc LABELS unit DEPS muster::config muster::testing)
endforeach()
muster_test(SRC unit/common/metrics/registry_test.cc LABELS unit DEPS muster::metrics)
muster_test(SRC unit/common/metrics/http_server_test.cc LABELS unit DEPS muster::metrics muster::testing
  muster::certificate_authority PkgConfig::CPPHTTPLIB)
foreach(name secrets self_signed tls_files)
  muster_test(SRC unit/common/security/${name}_test.cc LABELS unit DEPS muster::security muster::testing
    muster::certificate_authority)
endforeach()
muster_test(SRC unit/common/rpc/credentials_test.cc LABELS unit DEPS muster::rpc muster::process muster::testing
  muster::certificate_authority)
foreach(name errors server)
  muster_test(SRC unit/common/rpc/${name}_test.cc LABELS unit DEPS muster::rpc muster::testing)
endforeach()
