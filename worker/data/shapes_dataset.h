#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "worker/data/geometry.h"

namespace muster::data {

struct ShapesOptions {
  int train_images = 240;
  int val_images = 60;
  // Of a landscape image; a quarter of the images are portrait, width and height swapped.
  Size size = {256, 192};
  uint64_t seed = 0;
};

// The classes in order of their category ids 1, 2, ...: "circle", "square", "triangle", "star",
// "cross".
std::vector<std::string> ShapeNames();

// Makes a data set in COCO's layout below `folder` (annotations/instances_{train,val}.json,
// images/{train,val}.zip): textured shapes, 3 to 6 an image, sides from a sixth to half of the
// image's shorter side, on textured backgrounds; in every fifth image also a crowd region of many
// small shapes. Images are JPEGs in stored zips. The same options give the same bytes.
absl::Status WriteShapesDataset(const std::filesystem::path& folder, const ShapesOptions& options);

}  // namespace muster::data
