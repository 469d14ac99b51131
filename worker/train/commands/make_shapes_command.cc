#include <cstdio>
#include <memory>

#include "worker/data/shapes_dataset.h"
#include "worker/train/commands/commands.h"
#include "worker/train/failure.h"

namespace muster::train {
namespace {

struct MakeShapesOptions {
  std::filesystem::path output;
  data::ShapesOptions shapes;
};

int MakeShapes(const MakeShapesOptions& options) {
  Require(data::WriteShapesDataset(options.output, options.shapes), base::kExitUsage);
  std::puts(options.output.c_str());
  return base::kExitCompleted;
}

}  // namespace

void AddMakeShapesCommand(CLI::App& app, Command* chosen) {
  auto options = std::make_shared<MakeShapesOptions>();
  CLI::App* command = app.add_subcommand(
      "make-shapes", "Makes the demo's data set: pictures of textured shapes in COCO's layout");
  command->add_option("--output", options->output, "its folder")->required()->type_name("DIR");
  command->add_option("--train", options->shapes.train_images, "training images")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command->add_option("--val", options->shapes.val_images, "validation images")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command->add_option("--seed", options->shapes.seed, "the same seed gives the same bytes")
      ->capture_default_str();
  command->footer(
      "Example:\n  muster-trainer make-shapes --output /tmp/shapes --train 240 --val 60");
  command->callback([options, chosen] { *chosen = [options] { return MakeShapes(*options); }; });
}

}  // namespace muster::train
