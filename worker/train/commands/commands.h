#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "muster/config/v1/train_job.pb.h"
#include "worker/eval/coco_eval.h"
#include "worker/model/faster_rcnn.h"
#include <CLI/CLI.hpp>

// The program's subcommands. Each Add function registers one; parsing its name stores in *chosen
// what to run, which returns the exit code and throws as the trainer does.
namespace muster::train {

using Command = std::function<int()>;

// `arguments`, all that follow the program's name, are what its ranks are started with.
void AddTrainCommand(CLI::App& app, const std::vector<std::string>& arguments, Command* chosen);
void AddEvaluateCommand(CLI::App& app, const std::vector<std::string>& arguments, Command* chosen);
void AddPredictCommand(CLI::App& app, Command* chosen);
void AddScoreCommand(CLI::App& app, Command* chosen);
void AddInspectCommand(CLI::App& app, Command* chosen);
void AddMakeShapesCommand(CLI::App& app, Command* chosen);

// What commands that read a job's config have in common.
struct ConfigOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  std::vector<std::filesystem::path> data_roots;
};
void AddConfigOptions(CLI::App& command, ConfigOptions* options);

// The config with its overrides and defaults, validated. Throws TrainingFailure (kExitBadConfig).
config::v1::TrainJob LoadJob(const ConfigOptions& options);

// The job's model with a checkpoint's weights, on the job's device. Throws TrainingFailure.
model::FasterRCNN LoadModel(const config::v1::TrainJob& job,
                            const std::filesystem::path& checkpoint, at::Device device);

// The 12 figures to standard output: a table, or a JSON object.
void PrintFigures(const eval::CocoResult& result, bool json);

}  // namespace muster::train
