#include "worker/train/pth_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "worker/checkpoint/pth_reader.h"
#include "worker/train/torch_tensors.h"

namespace muster::train {
namespace {

using checkpoint::Value;
using ::testing::HasSubstr;

Value OfTensor(const at::Tensor& tensor) { return Value::OfTensor(FromTorch(tensor)); }

TEST(PthWriterTest, TheReaderReadsIt) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("muster-pth-" + std::to_string(getpid()) + ".pth");
  const at::Tensor weight = torch::arange(24, at::kFloat).reshape({2, 3, 2, 2});
  Value state = Value::OrderedDict();
  state.Set("conv.weight", OfTensor(weight));
  state.Set("transposed", OfTensor(weight.transpose(0, 1)));
  state.Set("empty", OfTensor(torch::empty({0, 4})));
  for (const at::ScalarType type : {at::kDouble, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                                    at::kShort, at::kChar, at::kByte, at::kBool}) {
    state.Set(c10::toString(type), OfTensor(torch::tensor({0, 1, 1, 0}).to(type)));
  }
  Value value = Value::Dict();
  value.Set("state_dict", state);
  value.Set("lr", Value::Real(0.1));
  ASSERT_TRUE(WritePth(path, value).ok());
  EXPECT_TRUE(checkpoint::CheckPth(path).ok());
  const absl::StatusOr<Value> read = checkpoint::ReadPth(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->Find("lr")->real(), 0.1);
  const absl::StatusOr<checkpoint::NamedTensors> tensors =
      checkpoint::TensorsOf(*read->Find("state_dict"), "a.pth");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 12u);
  for (const auto& [name, tensor] : ToTorch(*tensors)) {
    at::Tensor expected = torch::tensor({0, 1, 1, 0}).to(tensor.scalar_type());
    if (name == "conv.weight") expected = weight;
    if (name == "transposed") expected = weight.transpose(0, 1);
    if (name == "empty") expected = torch::empty({0, 4});
    EXPECT_TRUE(torch::equal(tensor, expected)) << name;
    EXPECT_TRUE(tensor.numel() != 4 || name == c10::toString(tensor.scalar_type())) << name;
  }
}

TEST(PthWriterTest, TensorsOutliveWhatTheyWereReadFrom) {
  NamedTensors kept;
  {
    Value state = Value::Dict();
    state.Set("w", OfTensor(torch::arange(1000, at::kFloat)));
    const absl::StatusOr<std::string> bytes = WritePthToString(state);
    ASSERT_TRUE(bytes.ok());
    const absl::StatusOr<Value> read = checkpoint::ReadPthFrom(*bytes, "a.pth");
    ASSERT_TRUE(read.ok()) << read.status();
    kept = ToTorch(*checkpoint::TensorsOf(*read, "a.pth"));
  }
  EXPECT_TRUE(torch::equal(kept.at(0).second, torch::arange(1000, at::kFloat)));
}

TEST(PthWriterTest, AFullDiskIsOneError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  Value state = Value::Dict();
  state.Set("w", OfTensor(torch::zeros({1000})));
  const absl::Status status = WritePth("/dev/full", state);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/full"));
}

}  // namespace
}  // namespace muster::train
