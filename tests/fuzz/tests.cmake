# The fuzzers: preset `fuzz` (clang, libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer, no LibTorch).
#
# muster_fuzzer(zip DEPS ... [OPTIONS -max_len=4096]) makes the program fuzz.zip of fuzz/zip_fuzzer.cc, which defines what
# fuzz/fuzz_target.h asks for, and a test of that name with the label full. ctest -L full in build/fuzz runs each for
# $MUSTER_FUZZ_SECONDS (60).
function(muster_fuzzer name)
  cmake_parse_arguments(A "" "" "DEPS;OPTIONS" ${ARGN})
  add_executable(fuzz.${name} fuzz/${name}_fuzzer.cc)
  target_link_libraries(fuzz.${name} PRIVATE muster_fuzz_main ${A_DEPS} muster_warnings)
  target_link_options(fuzz.${name} PRIVATE -fsanitize=fuzzer)
  add_test(NAME fuzz.${name}
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/fuzz/run_fuzzer.sh" $<TARGET_FILE:fuzz.${name}>
      "${PROJECT_BINARY_DIR}/corpus/${name}" ${A_OPTIONS})
  set_tests_properties(fuzz.${name} PROPERTIES LABELS full TIMEOUT 4000)
  add_dependencies(fuzzers fuzz.${name})
endfunction()

if(MUSTER_FUZZ)
  add_custom_target(fuzzers)
  add_library(muster_fuzz_main OBJECT fuzz/fuzz_main.cc)
  target_include_directories(muster_fuzz_main PUBLIC "${PROJECT_SOURCE_DIR}")
  target_link_libraries(muster_fuzz_main PUBLIC absl::span PRIVATE muster_warnings)
  muster_fuzzer(zip DEPS muster::worker_data muster::tiny_coco muster::testing OPTIONS -max_len=2048)
  muster_fuzzer(annotations DEPS muster::worker_data muster::tiny_coco nlohmann_json::nlohmann_json OPTIONS -max_len=8192)
  muster_fuzzer(checkpoint DEPS muster::worker_checkpoint muster::pth_builder OPTIONS -max_len=4096)
  muster_fuzzer(decode DEPS muster::worker_data muster::tiny_coco opencv_core opencv_imgcodecs OPTIONS -max_len=8192)
  muster_fuzzer(scheduled_events DEPS muster::worker_daemon OPTIONS -max_len=4096)
endif()
