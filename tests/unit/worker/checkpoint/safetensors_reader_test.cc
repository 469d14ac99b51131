#include "worker/checkpoint/safetensors_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace muster::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

TEST(SafetensorsReaderTest, ReadsTensors) {
  const float values[] = {1, 2, 3, 4, 5, 6};
  const std::string bytes =
      File(R"({"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
           R"("empty":{"dtype":"I64","shape":[0,4],"data_offsets":[24,24]}})",
           std::string(reinterpret_cast<const char*>(values), sizeof(values)));
  EXPECT_TRUE(LooksLikeSafetensors(bytes));
  const absl::StatusOr<NamedTensors> tensors = ReadSafetensorsFrom(bytes, "a.safetensors");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[1].first, "w");
  const Tensor& tensor = (*tensors)[1].second;
  EXPECT_THAT(tensor.shape, ElementsAre(2, 3));
  EXPECT_THAT(tensor.strides, ElementsAre(3, 1));
  EXPECT_EQ(std::memcmp(tensor.storage->data, values, sizeof(values)), 0);
}

TEST(SafetensorsReaderTest, RefusesWhatDoesNotFit) {
  const struct {
    const char* header;
    const char* expected;
  } cases[] = {
      {"[1]", "no JSON object"},
      {"{\"w\":", "no JSON object"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "another size than its shape"},
      {R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
       "another size than its shape"},
      {R"({"w":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]}})",
       "another size than its shape"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "outside the file"},
      {R"({"w":{"dtype":"F8","shape":[2],"data_offsets":[0,8]}})", "unknown type F8"},
      {R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "not described"},
      {R"({"w":{"dtype":"F32","shape":[2]}})", "not described"},
      {R"({"w":7})", "not described"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       "shares its bytes"},
  };
  for (const auto& [header, expected] : cases) {
    const absl::StatusOr<NamedTensors> tensors =
        ReadSafetensorsFrom(File(header, std::string(8, '\0')), "bad.safetensors");
    ASSERT_FALSE(tensors.ok()) << header;
    EXPECT_THAT(std::string(tensors.status().message()),
                AllOf(HasSubstr("bad.safetensors"), HasSubstr(expected)));
  }
}

TEST(SafetensorsReaderTest, EveryCutIsAnError) {
  const std::string bytes =
      File(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, '\1'));
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(ReadSafetensorsFrom(absl::string_view(bytes).substr(0, size), "cut").ok()) << size;
  }
}

}  // namespace
}  // namespace muster::checkpoint
