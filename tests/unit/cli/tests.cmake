muster_test(SRC unit/cli/commands_test.cc LABELS unit
  DEPS muster::cli_lib muster::testing nlohmann_json::nlohmann_json)
muster_test(SRC unit/cli/format_test.cc LABELS unit DEPS muster::cli_lib)
muster_test(SRC unit/cli/job_view_test.cc LABELS unit DEPS muster::cli_lib)
muster_test(SRC unit/cli/credentials_test.cc LABELS unit DEPS muster::cli_lib muster::certificate_authority muster::testing)
muster_test(SRC unit/cli/events_test.cc LABELS unit DEPS muster::cli_lib muster::testing)
muster_test(SRC unit/cli/node_commands_test.cc LABELS unit DEPS muster::cli_lib muster::testing)
muster_test(SRC unit/cli/node_view_test.cc LABELS unit DEPS muster::cli_lib)
