#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "worker/data/geometry.h"
#include "worker/data/zip_writer.h"
#include <nlohmann/json.hpp>

namespace muster::testing {

// A real JPEG of `size` pixels: a smooth picture that depends on `seed`.
std::string TinyJpeg(data::Size size, int seed = 0);

// A data set of a few images in COCO's layout, built by hand so that a test can also break it.
class TinyCoco {
 public:
  // With the categories 1 "cat" and 2 "dog".
  TinyCoco();

  // Adds an image with its JPEG; returns its id (1, 2, ...).
  int64_t AddImage(const std::string& file_name, data::Size size);
  // Adds an object of x, y, width, height; returns the annotation's id (1, 2, ...).
  int64_t AddObject(int64_t image_id, std::vector<double> bbox, int64_t category_id = 1,
                    bool crowd = false);

  // Writes annotations/instances_{split}.json and images/{split}.zip below `folder`.
  void Write(const std::filesystem::path& folder, const std::string& split,
             data::ZipCompression compression = data::ZipCompression::kStored) const;

  // The annotation file and the zip's members, to be changed.
  nlohmann::ordered_json json;
  std::vector<data::ZipMember> members;
};

void WriteText(const std::filesystem::path& path, const std::string& text);
std::string ReadText(const std::filesystem::path& path);

}  // namespace muster::testing
