// COCO annotation files, and what training draws from the boxes in them.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_target.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/coco_dataset.h"
#include "worker/data/sampler.h"
#include "worker/data/transforms.h"

namespace muster::fuzz {
namespace {

std::vector<data::PipelineOptions> Pipelines() {
  data::PipelineOptions plain;
  plain.scales = {{1600, 1000}, {1000, 600}};
  plain.scale_mode = data::ScaleMode::kRange;
  plain.flip_ratio = 0.5;
  data::PipelineOptions cropped = plain;
  cropped.canvas = data::Scale{1600, 1024};
  cropped.augmentation.photo_metric.emplace();
  cropped.augmentation.expand.emplace();
  cropped.augmentation.min_iou_crop.emplace();
  data::PipelineOptions seed = cropped;
  seed.box_scaling = data::BoxScaling::kScalar;
  seed.replace_empty = true;
  seed.augmentation.legacy = true;
  seed.augmentation.resize_crop = {.scales = {{1400, 600}, {1400, 1000}}, .crop = {1200, 800}};
  seed.canvas = data::Scale{1216, 800};
  return {plain, cropped, seed};
}

void CheckBoxes(const std::vector<data::Box>& boxes, data::Size size) {
  for (const data::Box& box : boxes) {
    Require(box.x1 >= 0 && box.x2 <= static_cast<float>(size.width) && box.y1 >= 0 &&
                box.y2 <= static_cast<float>(size.height) && box.x1 <= box.x2 && box.y1 <= box.y2,
            "boxes lie in the resized image");
  }
}

void CheckPlan(const data::PipelineOptions& options, const data::ImagePlan& plan) {
  Require(plan.objects.boxes.size() == plan.objects.labels.size(), "a label for each box");
  Require(plan.resized.width > 0 && plan.resized.height > 0, "resized to something");
  CheckBoxes(plan.objects.boxes, plan.resized);
  CheckBoxes(plan.objects.crowd_boxes, plan.resized);
  if (!options.canvas.has_value()) return;
  const data::Size canvas = data::BatchSize(options, {plan});
  Require(plan.resized.width <= canvas.width && plan.resized.height <= canvas.height,
          "the image fits its canvas");
}

}  // namespace

std::vector<std::string> Seeds() {
  testing::TinyCoco coco;
  const int64_t image = coco.AddImage("a.jpg", {64, 48});
  coco.AddObject(image, {1, 2, 30.5, 40});
  coco.AddObject(image, {10, 10, 50, 20}, 2, /*crowd=*/true);
  std::vector<std::string> seeds = {coco.json.dump()};
  coco.AddImage("b.png", {300, 400});
  coco.AddObject(2, {-5, 10, 1e3, 1});
  coco.json["annotations"][0]["segmentation"] = {{1.5, 2, 3, 4, 5, 6}};
  coco.json["annotations"][1]["ignore"] = true;
  coco.json["info"] = {{"year", 2017}};
  seeds.push_back(coco.json.dump(1));
  seeds.push_back(R"({"images":[],"categories":[],"annotations":[]})");
  return seeds;
}

void FuzzOne(absl::Span<const uint8_t> input) {
  static MemoryFile* const file = new MemoryFile();
  static const std::vector<data::PipelineOptions>* const pipelines =
      new std::vector<data::PipelineOptions>(Pipelines());
  file->Write(input);
  const auto dataset = data::CocoDataset::Load(file->path());
  if (!dataset.ok()) {
    Require(!dataset.status().message().empty(), "an error has a message");
    return;
  }
  const std::vector<int> images = dataset->TrainingImages(0, true);
  for (const data::Grouping grouping :
       {data::Grouping::kFilledGroups, data::Grouping::kMixedRest}) {
    const data::EpochPlan epoch(*dataset, images, {.images_per_rank = 3, .grouping = grouping});
    Require(data::ChunksPerEpoch(*dataset, images, 3, grouping) == epoch.chunks(),
            "chunks of an epoch");
    Require(epoch.Batches(0, {.rank = 1, .world = 2, .chunks_per_pass = 3}).size() ==
                static_cast<size_t>(epoch.PassesLeft(0, 3)),
            "passes of an epoch");
  }
  for (size_t i = 0; i < std::min<size_t>(images.size(), 8); ++i) {
    const data::DatasetImage& image = dataset->images()[static_cast<size_t>(images[i])];
    for (const data::PipelineOptions& options : *pipelines) {
      const auto plan = data::PlanImage(options, image, {.sample = i});
      if (plan.has_value()) CheckPlan(options, *plan);
    }
  }
}

}  // namespace muster::fuzz
