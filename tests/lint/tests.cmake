foreach(check alerts docs format tree)
  add_test(NAME lint.${check}
    COMMAND "${PROJECT_SOURCE_DIR}/tests/lint/check_${check}.sh" "${PROJECT_SOURCE_DIR}")
  set_tests_properties(lint.${check} PROPERTIES LABELS lint SKIP_RETURN_CODE 77)
endforeach()
