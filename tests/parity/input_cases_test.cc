// The data pipeline against OpenCV, Pillow and mmcv, through the files of make_input_cases.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/augment_pixels.h"
#include "worker/data/decode.h"
#include "worker/data/resize.h"
#include "worker/data/transforms.h"
#include <nlohmann/json.hpp>

namespace muster::data {
namespace {

using nlohmann::json;

struct Tensor {
  std::string type;
  std::vector<int> shape;
  std::string bytes;

  template <typename T>
  std::vector<T> As() const {
    EXPECT_EQ(type, sizeof(T) == 1 ? "U8" : "F32");
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  Size size() const { return {shape.at(1), shape.at(0)}; }
};

// A .safetensors file: the length of its JSON header in 8 bytes, the header, the tensors' bytes.
struct Case {
  std::string name;
  json steps;
  std::map<std::string, Tensor> tensors;

  explicit Case(const std::filesystem::path& path) : name(path.stem().string()) {
    const std::string file = testing::ReadText(path);
    uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof(length));
    const json header = json::parse(file.substr(8, length));
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        steps = json::parse(value["case"].get<std::string>());
        continue;
      }
      const auto range = value["data_offsets"].get<std::vector<size_t>>();
      tensors[key] = {value["dtype"], value["shape"].get<std::vector<int>>(),
                      file.substr(8 + length + range[0], range[1] - range[0])};
    }
  }
  size_t Count(const char* step) const { return steps.contains(step) ? steps[step].size() : 0; }
  const Tensor& at(const std::string& key) const { return tensors.at(key); }
};

template <typename T>
void Check(const std::string& what, const std::vector<T>& actual, const std::vector<T>& expected,
           double tolerance) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference =
        std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    largest = std::max(largest, std::isfinite(difference) ? difference : HUGE_VAL);
  }
  std::printf("%-40s largest difference %-10.3g tolerance used %3.0f %%\n", what.c_str(), largest,
              tolerance == 0 ? (largest == 0 ? 0.0 : 999.0) : 100 * largest / tolerance);
  EXPECT_LE(largest, tolerance) << what;
}

std::vector<Box> Boxes(const Tensor& tensor) {
  const std::vector<float> values = tensor.As<float>();
  std::vector<Box> boxes;
  for (size_t i = 0; i < values.size(); i += 4) {
    boxes.push_back({values[i], values[i + 1], values[i + 2], values[i + 3]});
  }
  return boxes;
}

void CheckDecoded(const Case& input) {
  const std::vector<uint8_t> file = input.at("file").As<uint8_t>();
  ImageDecoder decoder;
  std::vector<uint8_t> rgb;
  const absl::StatusOr<Size> size = decoder.Decode(file, &rgb);
  ASSERT_TRUE(size.ok()) << input.name << ": " << size.status();
  EXPECT_EQ(*size, input.at("decoded").size()) << input.name;
  Check(input.name + " decoded", rgb, input.at("decoded").As<uint8_t>(), 1);
}

void CheckResize(const Case& input, size_t index) {
  const Tensor& picture = input.at("picture");
  const Tensor& expected = input.at(absl::StrCat("resized.", index));
  const json& scale = input.steps["resize"][index];
  DatasetImage image;
  image.size = picture.size();
  image.boxes = Boxes(input.at("boxes"));
  image.labels.resize(image.boxes.size());
  for (const bool seed : {false, true}) {
    for (const int flip : {0, 1}) {
      PipelineOptions options;
      options.scales = {{scale[0], scale[1]}};
      options.flip_ratio = flip;
      options.box_scaling = seed ? BoxScaling::kScalar : BoxScaling::kPerAxis;
      const std::optional<ImagePlan> plan = PlanImage(options, image, {});
      ASSERT_TRUE(plan.has_value());
      ASSERT_EQ(plan->resized, expected.size()) << input.name << " resize " << index;
      const std::string boxes =
          absl::StrCat(seed ? "boxes_seed." : "boxes_mmdet3.", index, ".", flip);
      EXPECT_THAT(plan->objects.boxes, ::testing::ElementsAreArray(Boxes(input.at(boxes))))
          << input.name << " " << boxes;
    }
  }
  std::vector<uint8_t> resized;
  ASSERT_TRUE(ResizeLinear(picture.As<uint8_t>(), picture.size(), expected.size(), &resized).ok());
  Check(absl::StrCat(input.name, " resized ", index), resized, expected.As<uint8_t>(), 1);
}

void CheckBatch(const Case& input, size_t index) {
  const json& step = input.steps["batch"][index];
  const Tensor& resized = input.at(absl::StrCat("resized.", step["resized"].get<int>()));
  const Tensor& expected = input.at(absl::StrCat("batch.", index));
  const Size batch = {expected.shape.at(2), expected.shape.at(1)};
  std::vector<float> values(expected.bytes.size() / sizeof(float), std::nanf(""));
  const Normalizer normalizer{PipelineOptions()};
  const std::vector<uint8_t> pixels = resized.As<uint8_t>();
  normalizer.Write(pixels, resized.size(), step["flip"] == 1, batch, values.data());
  Check(absl::StrCat(input.name, " batch ", index), values, expected.As<float>(), 1e-5);
  const std::vector<float> as_floats(pixels.begin(), pixels.end());
  normalizer.Write(as_floats, resized.size(), step["flip"] == 1, batch, values.data());
  Check(absl::StrCat(input.name, " batch of floats ", index), values, expected.As<float>(), 1e-5);
}

void CheckPillow(const Case& input, size_t index) {
  const json& step = input.steps["pillow"][index];
  const Tensor& picture = input.at("picture");
  const Rect crop = {
      .left = step["crop"][0], .top = step["crop"][1], .size = {step["crop"][2], step["crop"][3]}};
  std::vector<uint8_t> resized;
  PillowResizer resizer;
  resizer.Resize(picture.As<uint8_t>(), picture.size(), {step["to"][0], step["to"][1]}, crop,
                 &resized);
  Check(absl::StrCat(input.name, " Pillow ", index), resized,
        input.at(absl::StrCat("pillow.", index)).As<uint8_t>(), 0);
}

void CheckDistorted(const Case& input, size_t index) {
  const json& step = input.steps["distort"][index];
  const Tensor& picture = input.at("distort_picture");
  const std::vector<uint8_t> pixels = picture.As<uint8_t>();
  std::vector<float> values(pixels.begin(), pixels.end());
  const Distortion distortion = {.brightness = step["brightness"],
                                 .contrast_first = step["contrast_first"],
                                 .contrast = step["contrast"],
                                 .saturation = step["saturation"],
                                 .limit_saturation = step["limit_saturation"],
                                 .hue = step["hue"],
                                 .channels = step["channels"]};
  ASSERT_TRUE(Distort(distortion, picture.size(), values.data()).ok());
  // Of 255: what is normalised next is then right to 1e-5 too.
  Check(absl::StrCat(input.name, " distorted ", index), values,
        input.at(absl::StrCat("distorted.", index)).As<float>(), 255e-5);
}

int CheckAll(const std::filesystem::path& folder) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("input_") || entry.path().extension() != ".safetensors") continue;
    ++files;
    const Case input(entry.path());
    if (input.tensors.contains("file")) CheckDecoded(input);
    for (size_t i = 0; i < input.Count("resize"); ++i) CheckResize(input, i);
    for (size_t i = 0; i < input.Count("batch"); ++i) CheckBatch(input, i);
    for (size_t i = 0; i < input.Count("pillow"); ++i) CheckPillow(input, i);
    for (size_t i = 0; i < input.Count("distort"); ++i) CheckDistorted(input, i);
  }
  return files;
}

TEST(InputCasesTest, CheckedInPictures) {
  EXPECT_EQ(CheckAll(muster::testing::SourceFolder() / "tests/golden/input"), 19);
}

// Others, for example larger ones: make_input_cases.py FOLDER --seed 1 --sides 400. No skip where
// there are none: the checked-in ones have been compared.
TEST(InputCasesTest, PicturesOfTheCasesFolder) {
  const char* set = std::getenv("MUSTER_PARITY_CASES");
  const int files = set == nullptr ? 0 : CheckAll(set);
  std::printf("%d input_*.safetensors in MUSTER_PARITY_CASES (%s)\n", files,
              set == nullptr ? "not set" : set);
}

}  // namespace
}  // namespace muster::data
