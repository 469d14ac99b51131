# muster_test(SRC unit/coordinator/core/placement_test.cc LABELS unit DEPS ... [TIMEOUT s]
#             [RESOURCE_LOCK name] [PROGRAMS muster-worker ...] [TORCH])
#
# One test program a file; its name is the path with dots. PROGRAMS are built before it and found through
# $MUSTER_BIN (build/<preset>/bin). A test that needs real data finds it through $MUSTER_SHARED or
# ../shared and skips where that is absent (exit code 77), which $MUSTER_FORBID_SKIPS turns into a failure.
function(muster_test)
  cmake_parse_arguments(A "TORCH" "SRC;TIMEOUT;RESOURCE_LOCK" "LABELS;DEPS;PROGRAMS" ${ARGN})
  if(A_UNPARSED_ARGUMENTS OR NOT A_SRC OR NOT A_LABELS)
    message(FATAL_ERROR "muster_test(${A_SRC}): bad arguments ${A_UNPARSED_ARGUMENTS}")
  endif()
  string(REPLACE "/" "." name "${A_SRC}")
  string(REGEX REPLACE "\\.cc$" "" name "${name}")
  add_executable(${name} ${A_SRC})
  target_link_libraries(${name} PRIVATE ${A_DEPS} muster_gtest_main muster_warnings
    $<TARGET_NAME_IF_EXISTS:muster_sanitizer_support>)
  if(A_TORCH)
    target_link_libraries(${name} PRIVATE muster::torch)
    muster_use_torch_pch(${name})
  endif()
  foreach(program IN LISTS A_PROGRAMS)
    if(TARGET ${program})
      add_dependencies(${name} ${program})
    endif()
  endforeach()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 60)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  # Not SKIP_REGULAR_EXPRESSION: it reports a program that skipped one test and failed another as skipped.
  set_tests_properties(${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "MUSTER_BIN=${PROJECT_BINARY_DIR}/bin;MUSTER_SOURCE=${PROJECT_SOURCE_DIR};OMP_NUM_THREADS=1")
  if(A_RESOURCE_LOCK)
    set_tests_properties(${name} PROPERTIES RESOURCE_LOCK "${A_RESOURCE_LOCK}")
  endif()
  set_property(GLOBAL APPEND PROPERTY MUSTER_TESTS "${A_SRC}")
endfunction()

# Fails the configuration when a *_test.cc below tests/ is registered nowhere. torch_folders are left out
# of a build without LibTorch.
function(muster_verify_tests)
  file(GLOB_RECURSE all CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" "*_test.cc")
  get_property(registered GLOBAL PROPERTY MUSTER_TESTS)
  foreach(f IN LISTS all)
    if(NOT f IN_LIST registered)
      if(NOT MUSTER_WITH_TORCH AND f MATCHES "${MUSTER_TORCH_TEST_FOLDERS}")
        continue()
      endif()
      message(SEND_ERROR "tests/${f} is not registered with muster_test()")
    endif()
  endforeach()
endfunction()
