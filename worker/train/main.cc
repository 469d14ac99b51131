#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/exit_codes.h"
#include "worker/train/commands/commands.h"
#include "worker/train/failure.h"
#include <CLI/CLI.hpp>

int main(int argc, char** argv) {
  using namespace muster;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  CLI::App app("Trains, evaluates and shows HRNet detectors; one process is one rank of a job.",
               "muster-trainer");
  app.require_subcommand(1);
  app.footer("muster-trainer COMMAND --help tells more, with examples.");
  train::Command chosen;
  train::AddTrainCommand(app, arguments, &chosen);
  train::AddEvaluateCommand(app, arguments, &chosen);
  train::AddPredictCommand(app, &chosen);
  train::AddScoreCommand(app, &chosen);
  train::AddInspectCommand(app, &chosen);
  train::AddMakeShapesCommand(app, &chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fputs(absl::StrCat("muster-trainer: error: ", error.what(), "\n").c_str(), stderr);
    return base::kExitUsage;
  }
  try {
    return chosen();
  } catch (...) {
    const train::FailureReport failure = train::DescribeCurrentException();
    std::fputs(absl::StrCat("muster-trainer: error: ", failure.message, "\n").c_str(), stderr);
    return failure.exit_code;
  }
}
