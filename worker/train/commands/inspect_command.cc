#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"

#include "worker/model/inspection.h"
#include "worker/train/commands/commands.h"
#include "worker/train/failure.h"
#include <nlohmann/json.hpp>

namespace muster::train {
namespace {

struct InspectOptions {
  ConfigOptions config;
  bool json = false;
};

void PrintJson(const model::Inspection& found) {
  nlohmann::ordered_json object;
  object["parameters"] = found.parameters;
  object["parameter_tensors"] = found.parameter_tensors;
  object["state_entries"] = found.state_entries;
  object["parameters_by_part"] = found.parameters_by_part;
  object["layers"] = found.layers;
  object["batch_norm_channels"] = found.batch_norm_channels;
  object["sync_bn_collectives_per_step"] = found.sync_bn_collectives_per_step;
  object["memory"] = {{"parameter_bytes", found.parameter_bytes},
                      {"gradient_bytes", found.gradient_bytes},
                      {"momentum_bytes", found.momentum_bytes},
                      {"buffer_bytes", found.buffer_bytes}};
  std::puts(object.dump(2).c_str());
}

void PrintTable(const model::Inspection& found) {
  const auto row = [](const std::string& name, int64_t value) {
    absl::PrintF("%-32s %12d\n", name, value);
  };
  const auto mebibytes = [](const char* name, int64_t bytes) {
    absl::PrintF("%-32s %12.1f MiB\n", name, static_cast<double>(bytes) / (1 << 20));
  };
  row("parameters", found.parameters);
  for (const auto& [part, count] : found.parameters_by_part) row("  " + part, count);
  row("tensors in a checkpoint", found.state_entries);
  for (const auto& [kind, count] : found.layers) row(kind + " layers", count);
  row("BatchNorm channels", found.batch_norm_channels);
  row("SyncBN collectives a step", found.sync_bn_collectives_per_step);
  mebibytes("memory of parameters", found.parameter_bytes);
  mebibytes("memory of gradients", found.gradient_bytes);
  mebibytes("memory of momentum", found.momentum_bytes);
  mebibytes("memory of buffers", found.buffer_bytes);
}

int Inspect(const InspectOptions& options) {
  const config::v1::TrainJob job = LoadJob(options.config);
  model::FasterRCNN model(job.model(), job.seed());
  const model::Inspection found = model::Inspect(model);
  if (options.json) {
    PrintJson(found);
  } else {
    PrintTable(found);
  }
  return base::kExitCompleted;
}

}  // namespace

void AddInspectCommand(CLI::App& app, Command* chosen) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Parameters, layers, SyncBN collectives and memory of a job's model");
  AddConfigOptions(*command, &options->config);
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Example:\n"
      "  muster-trainer inspect --config configs/hrnet/faster_rcnn_hrnetv2p_w18_1x.textproto");
  command->callback([options, chosen] { *chosen = [options] { return Inspect(*options); }; });
}

}  // namespace muster::train
