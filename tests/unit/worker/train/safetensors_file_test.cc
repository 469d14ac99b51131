#include "worker/train/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace muster::train {
namespace {

using ::testing::HasSubstr;

class SafetensorsFileTest : public ::testing::Test {
 protected:
  SafetensorsFileTest()
      : path_(std::filesystem::temp_directory_path() /
              ("muster-" + std::to_string(getpid()) + ".safetensors")) {}
  ~SafetensorsFileTest() override { std::filesystem::remove(path_); }

  void Write(const std::string& header, const std::string& data) {
    std::ofstream file(path_, std::ios::binary);
    const uint64_t size = header.size();
    file.write(reinterpret_cast<const char*>(&size), sizeof(size));
    file << header << data;
  }

  const std::filesystem::path path_;
};

TEST_F(SafetensorsFileTest, ReadsTensors) {
  const float values[] = {1, 2, 3, 4, 5, 6};
  Write(R"({"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})",
        std::string(reinterpret_cast<const char*>(values), sizeof(values)));
  const absl::StatusOr<NamedTensors> tensors = ReadSafetensors(path_);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 1u);
  EXPECT_EQ(tensors->front().first, "w");
  EXPECT_TRUE(
      torch::equal(tensors->front().second, torch::arange(1, 7, at::kFloat).reshape({2, 3})));
}

TEST_F(SafetensorsFileTest, RefusesWhatDoesNotFit) {
  const struct {
    const char* header;
    const char* expected;
  } cases[] = {
      {"[1]", "no JSON object"},
      {"{\"w\":", "no JSON object"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "another size than its shape"},
      {R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
       "another size than its shape"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "outside the file"},
      {R"({"w":{"dtype":"F8","shape":[2],"data_offsets":[0,8]}})", "unknown type F8"},
      {R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "not described"},
  };
  for (const auto& [header, expected] : cases) {
    Write(header, std::string(8, '\0'));
    const absl::StatusOr<NamedTensors> tensors = ReadSafetensors(path_);
    ASSERT_FALSE(tensors.ok()) << header;
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(expected));
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(path_.string()));
  }
}

}  // namespace
}  // namespace muster::train
