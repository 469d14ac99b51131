#include <cstdlib>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "common/base/log.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/train/checkpoint.h"
#include "worker/train/commands/commands.h"
#include "worker/train/failure.h"
#include "worker/train/launcher.h"
#include "worker/train/run_training.h"

namespace muster::train {
namespace {

struct TrainOptions {
  ConfigOptions config;
  std::filesystem::path output;
  int ranks = 1;
  int64_t max_steps = 0;
  ResumeRequest resume;
  std::filesystem::path resume_from;
};

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int64_t GenerationFromEnvironment() {
  const std::string text = FromEnvironment("MUSTER_GENERATION");
  int64_t generation = 0;
  if (!text.empty() && !absl::SimpleAtoi(text, &generation)) {
    throw TrainingFailure(base::kExitUsage, absl::StrCat("MUSTER_GENERATION is no number: ", text));
  }
  return generation;
}

// A second run into the same folder would mix with the first one's checkpoints.
void RefuseUsedOutput(const TrainOptions& options) {
  const std::vector<v1::Checkpoint> checkpoints =
      checkpoint::ListCheckpoints(options.output, "trainer");
  if (checkpoints.empty()) return;
  throw TrainingFailure(
      base::kExitUsage,
      absl::StrCat(options.output.string(), " already holds ", checkpoints.front().file(),
                   ": pass --resume to go on, or another --output"));
}

int Train(const TrainOptions& options, const std::vector<std::string>& arguments) {
  TrainRequest request{.job = LoadJob(options.config),
                       .output = options.output,
                       .data_roots = options.config.data_roots,
                       .max_steps = std::nullopt,
                       .resume = options.resume,
                       .job_name = FromEnvironment("MUSTER_JOB"),
                       .generation = GenerationFromEnvironment()};
  if (options.max_steps > 0) request.max_steps = options.max_steps;
  if (!options.resume_from.empty()) request.resume.file = options.resume_from;

  const bool is_rank = std::getenv("WORLD_SIZE") != nullptr;
  if (!is_rank) {
    if (!request.resume.newest && request.resume.holders.empty()) RefuseUsedOutput(options);
    const int asked = static_cast<int>(request.job.resources().nodes() *
                                       request.job.resources().ranks_per_node());
    if (asked != options.ranks) {
      base::Log(base::LogSeverity::kWarning, "trainer",
                "the run has another number of ranks than its config: its batch differs",
                {{"ranks", options.ranks}, {"config", asked}});
    }
    if (options.ranks > 1) {
      return LaunchRanks({.program = std::filesystem::read_symlink("/proc/self/exe"),
                          .arguments = arguments,
                          .ranks = options.ranks});
    }
  }
  const dist::RankEnvironment rank = Require(dist::ReadRankEnvironment(), base::kExitUsage);
  return RunTraining(request, rank, FromEnvironment("MUSTER_WORKER_SOCKET"));
}

}  // namespace

void AddTrainCommand(CLI::App& app, const std::vector<std::string>& arguments, Command* chosen) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train", "Trains a detector: by hand on this machine, or as one rank of a worker's job");
  AddConfigOptions(*command, &options->config);
  command
      ->add_option("--output", options->output,
                   "folder for checkpoints, metrics.jsonl and results; made when absent")
      ->required()
      ->type_name("DIR");
  command->add_option("--ranks", options->ranks, "processes on this machine (default 1)")
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--max-steps", options->max_steps,
                   "stop, with a checkpoint, after this step of the job")
      ->check(CLI::PositiveNumber);
  command->add_flag("--resume", options->resume.newest,
                    "go on from the newest checkpoint in --output, if there is one");
  const char* worker = "Given by a worker";
  command->add_option("--resume-from", options->resume_from, "this node's copy of the checkpoint")
      ->type_name("FILE")
      ->group(worker);
  command->add_option("--resume-holders", options->resume.holders, "ranks that hold the checkpoint")
      ->delimiter(',')
      ->group(worker);
  command->add_option("--resume-step", options->resume.step, "its step")->group(worker);
  command->add_option("--resume-generation", options->resume.generation, "its generation")
      ->group(worker);
  command->footer(
      "Examples:\n"
      "  muster-trainer train --config configs/quick/demo.textproto --output /tmp/run --ranks 2\n"
      "  muster-trainer train --config configs/quick/demo.textproto --output /tmp/run --resume\n"
      "Ctrl-C writes a checkpoint after the running step and ends with 10; --resume goes on from "
      "there.");
  command->callback([options, chosen, &arguments] {
    *chosen = [options, &arguments] { return Train(*options, arguments); };
  });
}

}  // namespace muster::train
