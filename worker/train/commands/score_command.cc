#include <memory>

#include "worker/eval/coco_files.h"
#include "worker/train/commands/commands.h"
#include "worker/train/failure.h"

namespace muster::train {
namespace {

struct ScoreOptions {
  std::filesystem::path annotations;
  std::filesystem::path results;
  bool json = false;
};

int Score(const ScoreOptions& options) {
  const eval::GroundTruth ground_truth =
      Require(eval::ReadGroundTruth(options.annotations), base::kExitDataError);
  const std::vector<eval::Detection> detections =
      Require(eval::ReadDetections(options.results), base::kExitDataError);
  Require(eval::CheckDetections(ground_truth, detections), base::kExitDataError);
  PrintFigures(eval::EvaluateCoco(ground_truth, detections), options.json);
  return base::kExitCompleted;
}

}  // namespace

void AddScoreCommand(CLI::App& app, Command* chosen) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = app.add_subcommand("score", "COCO's 12 figures of a results file");
  command->add_option("--annotations", options->annotations, "ground truth, a COCO instances file")
      ->required()
      ->type_name("FILE");
  command->add_option("--results", options->results, "detections, a COCO results file")
      ->required()
      ->type_name("FILE");
  command->add_flag("--json", options->json, "print the figures as JSON");
  command->footer(
      "Example:\n"
      "  muster-trainer score --annotations instances_val.json --results results_12.json --json");
  command->callback([options, chosen] { *chosen = [options] { return Score(*options); }; });
}

}  // namespace muster::train
