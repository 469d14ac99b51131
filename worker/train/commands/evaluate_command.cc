#include <memory>

#include "worker/dist/process_groups.h"
#include "worker/eval/coco_files.h"
#include "worker/train/commands/commands.h"
#include "worker/train/evaluator.h"
#include "worker/train/failure.h"
#include "worker/train/progress_bar.h"
#include "worker/train/run_training.h"

namespace muster::train {
namespace {

struct EvaluateOptions {
  ConfigOptions config;
  std::filesystem::path checkpoint;
  std::filesystem::path output;
  bool json = false;
};

int Evaluate(const EvaluateOptions& options) {
  const config::v1::TrainJob job = LoadJob(options.config);
  SetThreads(1);
  const at::Device device = RequireDevice(job.resources(), 0);
  model::FasterRCNN model = LoadModel(job, options.checkpoint, device);
  const std::filesystem::path root =
      Require(ResolveDataRoot(job.data().root(), options.config.data_roots), base::kExitDataError);
  const DataSplit split =
      Require(OpenSplit(root, job.data().val(), "data.val"), base::kExitDataError);
  Require(CheckClasses(split, job.model()), base::kExitBadConfig);

  ProgressBar bar("evaluating");
  const Evaluator evaluator(job, split, device);
  EvaluationOutcome outcome;
  outcome.detections =
      evaluator.Detect(model, 0, 1, [&](int64_t done, int64_t total) { bar.Update(done, total); });
  eval::SortByImage(&outcome.detections);
  outcome.result =
      eval::EvaluateCoco(Require(eval::ReadGroundTruth(split.dataset.path()), base::kExitDataError),
                         outcome.detections);
  if (!options.output.empty()) {
    Require(eval::WriteDetections(options.output, outcome.detections), base::kExitUsage);
  }
  PrintFigures(outcome.result, options.json);
  return base::kExitCompleted;
}

}  // namespace

void AddEvaluateCommand(CLI::App& app, Command* chosen) {
  auto options = std::make_shared<EvaluateOptions>();
  CLI::App* command =
      app.add_subcommand("evaluate", "Scores a checkpoint on the job's validation images");
  AddConfigOptions(*command, &options->config);
  command->add_option("--checkpoint", options->checkpoint, "weights: .pth or .safetensors")
      ->required()
      ->type_name("FILE");
  command->add_option("--output", options->output, "also write the detections, as COCO results")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "print the 12 figures as JSON");
  command->footer(
      "Example:\n"
      "  muster-trainer evaluate --config configs/quick/bccd.textproto --data-root ../shared/data "
      "--checkpoint /tmp/run/latest.pth --json");
  command->callback([options, chosen] { *chosen = [options] { return Evaluate(*options); }; });
}

}  // namespace muster::train
