#include <cstdlib>
#include <memory>

#include "worker/dist/process_groups.h"
#include "worker/eval/coco_files.h"
#include "worker/train/commands/commands.h"
#include "worker/train/evaluator.h"
#include "worker/train/failure.h"
#include "worker/train/launcher.h"
#include "worker/train/progress_bar.h"
#include "worker/train/run_training.h"

namespace muster::train {
namespace {

struct EvaluateOptions {
  ConfigOptions config;
  std::filesystem::path checkpoint;
  std::filesystem::path output;
  int ranks = 1;
  bool json = false;
};

int EvaluateAsRank(const EvaluateOptions& options) {
  const config::v1::TrainJob job = LoadJob(options.config);
  const dist::RankEnvironment rank = Require(dist::ReadRankEnvironment(), base::kExitUsage);
  SetThreads(rank.local_world_size);
  const at::Device device = RequireDevice(job.resources(), rank.local_rank);
  model::FasterRCNN model = LoadModel(job, options.checkpoint, device);
  const std::filesystem::path root =
      Require(ResolveDataRoot(job.data().root(), options.config.data_roots), base::kExitDataError);
  const DataSplit split =
      Require(OpenSplit(root, job.data().val(), "data.val"), base::kExitDataError);
  Require(CheckClasses(split, job.model()), base::kExitBadConfig);

  const std::unique_ptr<dist::ProcessGroups> groups = JoinRanks(job, rank, device);
  ProgressBar bar("evaluating");
  const EvaluationOutcome outcome =
      Evaluator(job, split, device)
          .Evaluate(model, *groups->control(), [&](int64_t done, int64_t total) {
            if (rank.rank == 0) bar.Update(done, total);
            return true;
          });
  if (rank.rank != 0) return base::kExitCompleted;
  bar.Clear();
  if (!options.output.empty()) {
    Require(eval::WriteDetections(options.output, outcome.detections), base::kExitUsage);
  }
  PrintFigures(outcome.result, options.json);
  return base::kExitCompleted;
}

int Evaluate(const EvaluateOptions& options, const std::vector<std::string>& arguments) {
  const bool is_rank = std::getenv("WORLD_SIZE") != nullptr;
  if (is_rank || options.ranks == 1) return EvaluateAsRank(options);
  return LaunchRanks({.program = std::filesystem::read_symlink("/proc/self/exe"),
                      .arguments = arguments,
                      .ranks = options.ranks});
}

}  // namespace

void AddEvaluateCommand(CLI::App& app, const std::vector<std::string>& arguments, Command* chosen) {
  auto options = std::make_shared<EvaluateOptions>();
  CLI::App* command =
      app.add_subcommand("evaluate", "Scores a checkpoint on the job's validation images");
  AddConfigOptions(*command, &options->config);
  command->add_option("--checkpoint", options->checkpoint, "weights: .pth or .safetensors")
      ->required()
      ->type_name("FILE");
  command->add_option("--output", options->output, "also write the detections, as COCO results")
      ->type_name("FILE");
  command
      ->add_option("--ranks", options->ranks,
                   "processes on this machine that share the images (default 1)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "print the 12 figures as JSON");
  command->footer(
      "Example:\n"
      "  muster-trainer evaluate --config configs/quick/bccd.textproto --data-root ../shared/data "
      "--checkpoint /tmp/run/latest.pth --json");
  command->callback([options, chosen, &arguments] {
    *chosen = [options, &arguments] { return Evaluate(*options, arguments); };
  });
}

}  // namespace muster::train
