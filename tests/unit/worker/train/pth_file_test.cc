#include "worker/train/pth_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <string>

#include "common/base/files.h"
#include "tests/support/shared_data.h"
#include "worker/train/checkpoint.h"

namespace muster::train {
namespace {

using ::testing::HasSubstr;

class PthFileTest : public ::testing::Test {
 protected:
  PthFileTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("muster-pth-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~PthFileTest() override { std::filesystem::remove_all(folder_); }

  const std::filesystem::path folder_;
};

Value Example() {
  Value state = Value::OrderedDict();
  state.Set("conv.weight", Value::Tensor(torch::arange(24, at::kFloat).reshape({2, 3, 2, 2})));
  state.Set("bn.num_batches_tracked", Value::Tensor(torch::tensor(int64_t{7})));
  state.Set("empty", Value::Tensor(torch::empty({0, 4})));
  state.Set("double", Value::Tensor(torch::full({3}, 1.0 / 3, at::kDouble)));
  Value meta = Value::Dict();
  meta.Set("epoch", Value::Integer(3));
  meta.Set("big", Value::Integer(int64_t{1} << 40));
  meta.Set("negative", Value::Integer(-5));
  meta.Set("lr", Value::Real(0.1));
  meta.Set("nothing", Value());
  meta.Set("yes", Value::Bool(true));
  meta.Set("classes", Value::Tuple({Value::Text("cat"), Value::Text("dög")}));
  meta.Set("list", Value::List({Value::Integer(1), Value::Dict()}));
  Value value = Value::Dict();
  value.Set("meta", meta);
  value.Set("state_dict", state);
  return value;
}

TEST_F(PthFileTest, ReadsBackWhatItWrote) {
  const std::filesystem::path path = folder_ / "a.pth";
  ASSERT_TRUE(WritePth(path, Example()).ok());
  EXPECT_TRUE(CheckPth(path).ok());
  const absl::StatusOr<Value> read = ReadPth(path);
  ASSERT_TRUE(read.ok()) << read.status();
  const Value& meta = *read->Find("meta");
  EXPECT_EQ(meta.Find("epoch")->integer(), 3);
  EXPECT_EQ(meta.Find("big")->integer(), int64_t{1} << 40);
  EXPECT_EQ(meta.Find("negative")->integer(), -5);
  EXPECT_EQ(meta.Find("lr")->real(), 0.1);
  EXPECT_EQ(meta.Find("nothing")->kind(), Value::Kind::kNone);
  EXPECT_EQ(meta.Find("yes")->boolean(), true);
  EXPECT_EQ(*(*meta.Find("classes")->items())[1].text(), "dög");
  const Value& state = *read->Find("state_dict");
  EXPECT_EQ(state.kind(), Value::Kind::kOrderedDict);
  EXPECT_TRUE(torch::equal(*state.Find("conv.weight")->tensor(),
                           torch::arange(24, at::kFloat).reshape({2, 3, 2, 2})));
  EXPECT_EQ(state.Find("bn.num_batches_tracked")->tensor()->item<int64_t>(), 7);
  EXPECT_EQ(state.Find("empty")->tensor()->sizes(), (at::IntArrayRef{0, 4}));
  EXPECT_EQ(state.Find("double")->tensor()->scalar_type(), at::kDouble);
}

TEST_F(PthFileTest, EveryCutAndManyFlipsGiveOneErrorThatNamesTheFile) {
  const std::string bytes = WritePthToString(Example());
  for (size_t size = 0; size < bytes.size(); size += 7) {
    const absl::StatusOr<Value> read =
        ReadPthFrom(absl::string_view(bytes).substr(0, size), "cut.pth");
    ASSERT_FALSE(read.ok()) << size;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("cut.pth"));
  }
  // A flipped bit is noticed, or hits padding and what no reader looks at.
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string flipped = bytes;
    flipped[random() % bytes.size()] ^= static_cast<char>(1u << (random() % 8));
    const absl::StatusOr<Value> read = ReadPthFrom(flipped, "flipped.pth");
    if (!read.ok()) {
      ++refused;
      EXPECT_THAT(std::string(read.status().message()), HasSubstr("flipped.pth"));
      continue;
    }
    EXPECT_TRUE(torch::equal(*read->Find("state_dict")->Find("conv.weight")->tensor(),
                             torch::arange(24, at::kFloat).reshape({2, 3, 2, 2})));
  }
  EXPECT_GT(refused, 200);
}

// The container of PyTorch before 1.6, which HRNet's ImageNet weights come in.
TEST_F(PthFileTest, ReadsTheOldFormatAndItsCutsAreErrors) {
  std::vector<at::Tensor> storages;
  const auto pickle = [&](const Value& value) {
    return Pickle(value, [&](const at::Tensor& tensor) {
      storages.push_back(tensor);
      return std::to_string(storages.size() - 1);
    });
  };
  std::string bytes("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  bytes += pickle(Value::Integer(1001));
  bytes += pickle(Value::Dict());
  bytes += pickle(Example());
  std::vector<Value> keys;
  for (size_t i = 0; i < storages.size(); ++i) keys.push_back(Value::Text(std::to_string(i)));
  bytes += pickle(Value::List(keys));
  for (const at::Tensor& storage : storages) {
    const int64_t elements = storage.numel();
    bytes.append(reinterpret_cast<const char*>(&elements), sizeof(elements));
    bytes.append(static_cast<const char*>(storage.const_data_ptr()), storage.nbytes());
  }
  const absl::StatusOr<Value> read = ReadPthFrom(bytes, "old.pth");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(torch::equal(*read->Find("state_dict")->Find("conv.weight")->tensor(),
                           torch::arange(24, at::kFloat).reshape({2, 3, 2, 2})));
  for (size_t size = 1; size < bytes.size(); size += 5) {
    EXPECT_FALSE(ReadPthFrom(absl::string_view(bytes).substr(0, size), "old.pth").ok()) << size;
  }
}

const LoadStorage kNoStorages = [](const StorageReference&) -> absl::StatusOr<at::Tensor> {
  return absl::InvalidArgumentError("no storages here");
};

TEST(PickleTest, RefusesOtherClassesByName) {
  const absl::StatusOr<Value> value = Unpickle(
      "\x80\x02"
      "cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.",
      kNoStorages);
  ASSERT_FALSE(value.ok());
  EXPECT_THAT(std::string(value.status().message()), HasSubstr("posix.system"));
}

TEST(PickleTest, RefusesCyclesDeepNestingAndRandomBytes) {
  EXPECT_FALSE(Unpickle("\x80\x02]q\x01h\x01"
                        "a.",
                        kNoStorages)
                   .ok());
  std::string deep = "\x80\x02";
  for (int i = 0; i < 100000; ++i) deep += ']';
  for (int i = 1; i < 100000; ++i) deep += 'a';
  EXPECT_FALSE(Unpickle(deep + ".", kNoStorages).ok());

  std::mt19937 random(7);
  const std::string opcodes = "\x80\x02(.]})tasueXqhQRbNcKJM\x85\x86\x87\x8a";
  for (int i = 0; i < 20000; ++i) {
    std::string bytes;
    for (int k = 0; k < 40; ++k) {
      bytes += random() % 4 == 0 ? static_cast<char>(random()) : opcodes[random() % opcodes.size()];
    }
    (void)Unpickle(bytes, kNoStorages);
  }
}

TEST(PickleTest, RefusesATensorBeyondItsStorage) {
  const LoadStorage four = [](const StorageReference&) -> absl::StatusOr<at::Tensor> {
    return torch::zeros({4});
  };
  const auto tensor = [&](char size, char stride, char offset) {
    std::string bytes =
        "\x80\x02"
        "ctorch._utils\n_rebuild_tensor_v2\n((X\x07";
    bytes += std::string(3, '\0') + "storagectorch\nFloatStorage\nX\x01" + std::string(3, '\0') +
             "0X\x03" + std::string(3, '\0') + "cpuK\x04tQK";
    bytes += offset;
    bytes += std::string("K") + size + "\x85K" + stride + "\x85\x89}tR.";
    return Unpickle(bytes, four);
  };
  EXPECT_TRUE(tensor(4, 1, 0).ok()) << tensor(4, 1, 0).status();
  EXPECT_FALSE(tensor(5, 1, 0).ok());
  EXPECT_FALSE(tensor(4, 1, 1).ok());
  EXPECT_FALSE(tensor(100, 0, 0).ok());  // a few bytes may not stand for many
}

// Written by Python: torch.save of mmdetection's model, with its optimizer and as a plain dict.
TEST(PthInteropTest, ReadsPythonsFiles) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no shared data";
  for (const char* name : {"tiny_init.pth", "tiny_init_plain.pth"}) {
    const absl::StatusOr<NamedTensors> weights = ReadWeights(*shared / "oracle/cases" / name);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(weights->size(), 566u);
    EXPECT_EQ(weights->front().first, "backbone.conv1.weight");
    EXPECT_EQ(weights->front().second.sizes(), (at::IntArrayRef{64, 3, 3, 3}));
  }
  const absl::StatusOr<NamedTensors> same =
      ReadWeights(*shared / "oracle/cases/tiny_init.safetensors");
  ASSERT_TRUE(same.ok()) << same.status();
  std::map<std::string, at::Tensor> expected(same->begin(), same->end());
  const absl::StatusOr<NamedTensors> weights = ReadWeights(*shared / "oracle/cases/tiny_init.pth");
  int compared = 0;
  for (const auto& [key, tensor] : *weights) {
    const auto found = expected.find(key);
    if (found == expected.end()) continue;
    EXPECT_TRUE(torch::equal(found->second, tensor)) << key;
    ++compared;
  }
  EXPECT_GT(compared, 100);
}

}  // namespace
}  // namespace muster::train
