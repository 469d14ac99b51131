muster_test(SRC parity/training_case_test.cc LABELS parity TORCH TIMEOUT 600 DEPS muster::parity_support)
muster_test(SRC parity/inference_case_test.cc LABELS parity TORCH TIMEOUT 120 DEPS muster::parity_support)
muster_test(SRC parity/mutation_test.cc LABELS parity TORCH TIMEOUT 600 DEPS muster::parity_support)
muster_test(SRC parity/syncbn_ranks_test.cc LABELS parity TORCH TIMEOUT 300 DEPS muster::parity_support muster::worker_dist nlohmann_json::nlohmann_json)
# The large models' cases, where tests/parity/make_cases.sh has made them.
foreach(name parity.training_case_test parity.inference_case_test)
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "MUSTER_PARITY_ARCHS=tiny")
  add_test(NAME ${name}.full COMMAND ${name})
  set_tests_properties(${name}.full PROPERTIES LABELS "parity;full" TIMEOUT 7200 SKIP_RETURN_CODE 77
    ENVIRONMENT "MUSTER_SOURCE=${PROJECT_SOURCE_DIR};OMP_NUM_THREADS=1;MUSTER_PARITY_ARCHS=w18,w32,w40,w48,r50")
endforeach()
