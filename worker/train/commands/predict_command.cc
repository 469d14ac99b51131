#include <algorithm>
#include <memory>
#include <unordered_map>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "worker/data/draw.h"
#include "worker/eval/coco_files.h"
#include "worker/train/commands/commands.h"
#include "worker/train/evaluator.h"
#include "worker/train/failure.h"
#include "worker/train/progress_bar.h"
#include "worker/train/run_training.h"

namespace muster::train {
namespace {

struct PredictOptions {
  ConfigOptions config;
  std::filesystem::path checkpoint;
  std::filesystem::path output = "predictions.png";
  int images = 8;
};

// The images to show: spread over the whole set.
std::vector<int> Choose(size_t available, int wanted) {
  std::vector<int> chosen;
  const int64_t count = std::min<int64_t>(wanted, static_cast<int64_t>(available));
  for (int64_t i = 0; i < count; ++i) {
    chosen.push_back(static_cast<int>(i * static_cast<int64_t>(available) / count));
  }
  return chosen;
}

data::DrawnImage Drawn(const DataSplit& split, const data::DatasetImage& image,
                       const std::vector<eval::Detection>& detections) {
  data::DrawnImage drawn;
  drawn.title = image.file_name;
  drawn.picture = Require(data::ReadPicture(*split.images, image.file_name), base::kExitDataError);
  for (size_t i = 0; i < image.boxes.size(); ++i) {
    drawn.ground_truth.push_back({.box = image.boxes[i], .label = image.labels[i], .score = 1});
  }
  drawn.crowd_boxes = image.crowd_boxes;
  std::unordered_map<int64_t, int64_t> labels;
  for (size_t i = 0; i < split.dataset.categories().size(); ++i) {
    labels[split.dataset.categories()[i].id] = static_cast<int64_t>(i);
  }
  for (const eval::Detection& detection : detections) {
    if (detection.image_id != image.id) continue;
    const auto& [x, y, width, height] = detection.bbox;
    drawn.detections.push_back(
        {.box = {static_cast<float>(x), static_cast<float>(y), static_cast<float>(x + width),
                 static_cast<float>(y + height)},
         .label = labels.at(detection.category_id),
         .score = detection.score});
  }
  return drawn;
}

int Predict(const PredictOptions& options) {
  const config::v1::TrainJob job = LoadJob(options.config);
  SetThreads(1);
  const at::Device device = RequireDevice(job.resources(), 0);
  model::FasterRCNN model = LoadModel(job, options.checkpoint, device);
  const std::filesystem::path root =
      Require(ResolveDataRoot(job.data().root(), options.config.data_roots), base::kExitDataError);
  const DataSplit split =
      Require(OpenSplit(root, job.data().val(), "data.val"), base::kExitDataError);
  Require(CheckClasses(split, job.model()), base::kExitBadConfig);

  const std::vector<int> images = Choose(split.dataset.images().size(), options.images);
  std::vector<eval::Detection> detections;
  {
    ProgressBar bar("detecting");
    detections =
        *Evaluator(job, split, device).Detect(model, images, [&bar](int64_t done, int64_t total) {
          bar.Update(done, total);
          return true;
        });
  }
  eval::SortByImage(&detections);

  std::filesystem::path png = options.output;
  if (png.extension() != ".png") {
    Require(base::CreateFolders(png), base::kExitUsage);
    png /= "predictions.png";
  }
  std::filesystem::path json = png;
  json.replace_extension(".json");
  std::vector<data::DrawnImage> drawn;
  for (const int index : images) {
    drawn.push_back(Drawn(split, split.dataset.images()[static_cast<size_t>(index)], detections));
  }
  Require(data::WriteDetectionGrid(png, drawn, ClassNames(split.dataset), {}), base::kExitUsage);
  Require(eval::WriteDetections(json, detections), base::kExitUsage);
  std::puts(absl::StrCat(png.string(), "\n", json.string()).c_str());
  return base::kExitCompleted;
}

}  // namespace

void AddPredictCommand(CLI::App& app, Command* chosen) {
  auto options = std::make_shared<PredictOptions>();
  CLI::App* command = app.add_subcommand(
      "predict", "Draws a checkpoint's detections beside the ground truth of validation images");
  AddConfigOptions(*command, &options->config);
  command->add_option("--checkpoint", options->checkpoint, "weights: .pth or .safetensors")
      ->required()
      ->type_name("FILE");
  command
      ->add_option(
          "--output", options->output,
          "a .png file, or a folder for predictions.png; the detections go beside it as JSON")
      ->type_name("FILE|DIR");
  command->add_option("--images", options->images, "how many images (default 8)")
      ->check(CLI::Range(1, 1000));
  command->footer(
      "Example:\n"
      "  muster-trainer predict --config configs/quick/demo.textproto --checkpoint "
      "/tmp/run/latest.pth --output /tmp/run/predictions.png");
  command->callback([options, chosen] { *chosen = [options] { return Predict(*options); }; });
}

}  // namespace muster::train
