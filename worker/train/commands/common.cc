#include <cstdio>

#include "absl/strings/str_cat.h"

#include "common/config/defaults.h"
#include "common/config/load.h"
#include "common/config/validate.h"
#include "worker/train/commands/commands.h"
#include "worker/train/failure.h"
#include "worker/train/starting_weights.h"
#include <nlohmann/json.hpp>

namespace muster::train {

void AddConfigOptions(CLI::App& command, ConfigOptions* options) {
  command.add_option("--config", options->config, "the job's config (.textproto)")
      ->required()
      ->type_name("FILE");
  command
      .add_option("--set", options->overrides,
                  "set a field of the config, for example --set schedule.epochs=3; may be repeated")
      ->type_name("FIELD=VALUE")
      ->allow_extra_args(false);
  command
      .add_option("--data-root", options->data_roots,
                  "folder that data.root is looked for in; may be repeated (default: this folder)")
      ->type_name("DIR")
      ->allow_extra_args(false);
}

config::v1::TrainJob LoadJob(const ConfigOptions& options) {
  config::v1::TrainJob job = Require(
      config::LoadTrainJob(options.config, {.overrides = options.overrides}), base::kExitBadConfig);
  const std::vector<config::Violation> violations = config::Validate(job);
  if (!violations.empty()) {
    throw TrainingFailure(base::kExitBadConfig,
                          absl::StrCat(options.config.string(), " cannot be run:\n",
                                       config::FormatViolations(violations)));
  }
  config::ApplyDefaults(&job);
  return job;
}

model::FasterRCNN LoadModel(const config::v1::TrainJob& job,
                            const std::filesystem::path& checkpoint, at::Device device) {
  model::FasterRCNN model(job.model(), job.seed());
  Require(LoadDetector(checkpoint, *model), base::kExitCheckpointError);
  model->to(device);
  model->eval();
  return model;
}

void PrintFigures(const eval::CocoResult& result, bool json) {
  if (!json) {
    std::fputs(eval::SummaryTable(result).c_str(), stdout);
    return;
  }
  nlohmann::ordered_json object;
  for (const eval::NamedFigure& figure : eval::NamedFigures(result.figures)) {
    object[figure.name] = figure.value;
  }
  std::puts(object.dump(2).c_str());
}

}  // namespace muster::train
