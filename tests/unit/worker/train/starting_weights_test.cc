#include "worker/train/starting_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"
#include "tests/support/pth_builder.h"
#include "tests/support/shared_data.h"
#include "worker/train/checkpoint.h"
#include "worker/train/pth_writer.h"

namespace muster::train {
namespace {

namespace fs = std::filesystem;
using checkpoint::Value;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Tensors = std::map<std::string, at::Tensor>;

// A module with the given parameters; dots in a name make submodules.
class TreeImpl : public torch::nn::Module {
 public:
  explicit TreeImpl(const Tensors& tensors) {
    std::map<std::string, Tensors> children;
    for (const auto& [name, tensor] : tensors) {
      const size_t dot = name.find('.');
      if (dot == std::string::npos) {
        register_buffer(name, tensor.clone());
      } else {
        children[name.substr(0, dot)][name.substr(dot + 1)] = tensor;
      }
    }
    for (const auto& [name, inner] : children) {
      register_module(name, std::make_shared<TreeImpl>(inner));
    }
  }
};

// A detector's names with small shapes. Every element of every tensor is `fill`.
Tensors Detector(int classes, float fill) {
  const auto full = [&](at::IntArrayRef shape) { return torch::full(shape, fill); };
  return {{"backbone.conv1.weight", full({4, 3, 3, 3})},
          {"backbone.bn1.weight", full({4})},
          {"backbone.bn1.num_batches_tracked", torch::tensor(static_cast<int64_t>(fill))},
          {"neck.reduction_conv.conv.weight", full({4, 8, 1, 1})},
          {"neck.fpn_convs.0.conv.weight", full({4, 4, 3, 3})},
          {"neck.fpn_convs.10.conv.bias", full({4})},
          {"rpn_head.rpn_cls.weight", full({3, 4, 1, 1})},
          {"roi_head.bbox_head.fc_cls.weight", full({classes + 1, 6})},
          {"roi_head.bbox_head.fc_cls.bias", full({classes + 1})},
          {"roi_head.bbox_head.fc_reg.weight", full({4 * classes, 6})},
          {"roi_head.bbox_head.fc_reg.bias", full({4 * classes})},
          {"roi_head.bbox_head.shared_fcs.0.weight", full({6, 196})}};
}

Value StateOf(const Tensors& tensors, const std::string& prefix = "") {
  Value state = Value::OrderedDict();
  for (const auto& [name, tensor] : tensors) {
    state.Set(prefix + name, Value::OfTensor(FromTorch(tensor)));
  }
  return state;
}

class StartingWeightsTest : public ::testing::Test {
 protected:
  StartingWeightsTest()
      : folder_(fs::temp_directory_path() / absl::StrCat("muster-weights-", getpid())),
        module_(Detector(3, 0)) {
    fs::create_directories(folder_);
  }
  ~StartingWeightsTest() override { fs::remove_all(folder_); }

  fs::path Write(const Value& value) {
    EXPECT_TRUE(WritePth(folder_ / "a.pth", value).ok());
    return folder_ / "a.pth";
  }
  fs::path WriteBytes(const std::string& bytes) {
    EXPECT_TRUE(base::WriteFileAtomically(folder_ / "a.pth", bytes).ok());
    return folder_ / "a.pth";
  }
  Tensors Loaded() {
    const NamedTensors state = StateDict(module_);
    return {state.begin(), state.end()};
  }
  // The names whose tensors are not all `value`.
  std::vector<std::string> NamesWithout(double value) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : Loaded()) {
      if (!tensor.eq(value).all().item<bool>()) names.push_back(name);
    }
    return names;
  }

  const fs::path folder_;
  TreeImpl module_;
};

TEST_F(StartingWeightsTest, Mmdetection3) {
  Value plain = StateOf(Detector(3, 7));
  Value checkpoint = Value::Dict();
  checkpoint.Set("meta", Value::Dict());
  checkpoint.Set("state_dict", StateOf(Detector(3, 8), "module."));
  double expected = 7;
  for (const std::string& bytes :
       {*WritePthToString(plain), *WritePthToString(checkpoint), testing::OldPthOf(plain)}) {
    const absl::StatusOr<LoadedWeights> loaded = LoadStartingWeights(WriteBytes(bytes), module_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->kind, WeightsKind::kMmdetection);
    EXPECT_EQ(loaded->taken, 12);
    EXPECT_THAT(loaded->ignored, IsEmpty());
    EXPECT_THAT(loaded->kept_heads, IsEmpty());
    EXPECT_THAT(NamesWithout(expected), IsEmpty());
    expected = expected == 7 ? 8 : 7;
  }
}

TEST_F(StartingWeightsTest, OursIsRecognised) {
  Value meta = Value::Dict();
  meta.Set("muster", Value::Dict());
  Value checkpoint = Value::Dict();
  checkpoint.Set("meta", meta);
  checkpoint.Set("state_dict", StateOf(Detector(3, 7)));
  const absl::StatusOr<LoadedWeights> loaded = LoadStartingWeights(Write(checkpoint), module_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->kind, WeightsKind::kMuster);
}

TEST_F(StartingWeightsTest, Mmdetection06HasOtherNamesAndBackgroundFirst) {
  Tensors old = Detector(3, 5);
  const auto rename = [&](const std::string& from, const std::string& to) {
    const auto node = old.extract(from);
    old[to] = node.mapped();
  };
  rename("neck.reduction_conv.conv.weight", "neck.reduction_conv.0.weight");
  rename("neck.fpn_convs.0.conv.weight", "neck.fpn_conv.0.weight");
  rename("neck.fpn_convs.10.conv.bias", "neck.fpn_conv.10.bias");
  rename("roi_head.bbox_head.shared_fcs.0.weight", "bbox_head.shared_fcs.0.weight");
  for (const char* name : {"fc_cls.weight", "fc_cls.bias", "fc_reg.weight", "fc_reg.bias"}) {
    old.erase(absl::StrCat("roi_head.bbox_head.", name));
  }
  old["bbox_head.fc_cls.weight"] = torch::arange(4.0f).reshape({4, 1}).expand({4, 6});
  old["bbox_head.fc_cls.bias"] = torch::arange(4.0f);
  old["bbox_head.fc_reg.weight"] = torch::arange(16.0f).reshape({16, 1}).expand({16, 6});
  old["bbox_head.fc_reg.bias"] = torch::arange(16.0f);
  const absl::StatusOr<LoadedWeights> loaded =
      LoadStartingWeights(WriteBytes(testing::OldPthOf(StateOf(old))), module_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->kind, WeightsKind::kMmdetection06);
  EXPECT_EQ(loaded->taken, 12);
  EXPECT_THAT(NamesWithout(5),
              ElementsAre("roi_head.bbox_head.fc_cls.bias", "roi_head.bbox_head.fc_cls.weight",
                          "roi_head.bbox_head.fc_reg.bias", "roi_head.bbox_head.fc_reg.weight"));
  const Tensors now = Loaded();
  EXPECT_TRUE(torch::equal(now.at("roi_head.bbox_head.fc_cls.bias"),
                           torch::tensor({1.0f, 2.0f, 3.0f, 0.0f})));
  EXPECT_TRUE(torch::equal(now.at("roi_head.bbox_head.fc_cls.weight").select(1, 5),
                           torch::tensor({1.0f, 2.0f, 3.0f, 0.0f})));
  EXPECT_TRUE(torch::equal(now.at("roi_head.bbox_head.fc_reg.bias"), torch::arange(4.0f, 16.0f)));
  EXPECT_TRUE(torch::equal(now.at("roi_head.bbox_head.fc_reg.weight").select(1, 0),
                           torch::arange(4.0f, 16.0f)));
  EXPECT_TRUE(LoadDetector(folder_ / "a.pth", module_).ok());
}

TEST_F(StartingWeightsTest, AClassifierGivesItsBackbone) {
  Tensors classifier = {{"conv1.weight", torch::full({4, 3, 3, 3}, 7.0f)},
                        {"bn1.weight", torch::full({4}, 7.0f)}};
  for (const char* name :
       {"incre_modules.0.0.conv1.weight", "incre_modules.1.0.conv1.weight",
        "downsamp_modules.0.0.weight", "final_layer.0.weight", "classifier.bias", "fc.bias"}) {
    classifier[name] = torch::zeros({1});
  }
  absl::StatusOr<LoadedWeights> loaded = LoadStartingWeights(Write(StateOf(classifier)), module_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->kind, WeightsKind::kClassifier);
  EXPECT_EQ(loaded->taken, 2);
  EXPECT_EQ(loaded->ignored.size(), 6u);
  EXPECT_EQ(Loaded().at("backbone.conv1.weight").mean().item<float>(), 7);
  EXPECT_EQ(Loaded().at("backbone.bn1.weight").mean().item<float>(), 7);
  EXPECT_EQ(NamesWithout(0).size(), 2u);
  ::testing::internal::CaptureStderr();
  LogStartingWeights(folder_ / "a.pth", *loaded);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("kind=\"ImageNet classifier\""), HasSubstr("tensors=2"),
                    HasSubstr("incre_modules (2)"), HasSubstr("classifier (1)")));

  // mmpretrain's names.
  loaded = LoadStartingWeights(Write(StateOf({{"backbone.conv1.weight", torch::ones({4, 3, 3, 3})},
                                              {"backbone.bn1.weight", torch::ones({4})},
                                              {"head.fc.weight", torch::ones({2})}})),
                               module_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->taken, 2);
  EXPECT_EQ(Loaded().at("backbone.conv1.weight").mean().item<float>(), 1);

  // A deeper or wider network is not this one.
  classifier["layer3.22.conv1.weight"] = torch::zeros({1});
  classifier["bn1.weight"] = torch::zeros({5});
  const absl::Status status = LoadStartingWeights(Write(StateOf(classifier)), module_).status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("a.pth (ImageNet classifier) does not fit the model in 2"),
                    HasSubstr("backbone.layer3.22.conv1.weight is unknown"),
                    HasSubstr("backbone.bn1.weight is (5), not (4)")));
  EXPECT_EQ(Loaded().at("backbone.conv1.weight").mean().item<float>(), 1);
  EXPECT_FALSE(LoadDetector(folder_ / "a.pth", module_).ok());
}

TEST_F(StartingWeightsTest, OtherClassesLeaveTheLastLayersRandom) {
  const fs::path path = Write(StateOf(Detector(80, 7)));
  const absl::StatusOr<LoadedWeights> loaded = LoadStartingWeights(path, module_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->taken, 8);
  const std::vector<std::string> heads = {
      "roi_head.bbox_head.fc_cls.bias", "roi_head.bbox_head.fc_cls.weight",
      "roi_head.bbox_head.fc_reg.bias", "roi_head.bbox_head.fc_reg.weight"};
  EXPECT_EQ(loaded->kept_heads, heads);
  EXPECT_EQ(NamesWithout(7), heads);
  EXPECT_EQ(NamesWithout(0).size(), 8u);
  ::testing::internal::CaptureStderr();
  LogStartingWeights(path, *loaded);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("another number of classes"),
                    HasSubstr("roi_head.bbox_head.fc_cls.weight, roi_head.bbox_head.fc_reg.bias")));
  // To evaluate it, all of it is needed.
  EXPECT_THAT(std::string(LoadDetector(path, module_).message()),
              HasSubstr("roi_head.bbox_head.fc_cls.bias is (81), not (4)"));
}

TEST_F(StartingWeightsTest, EveryOtherDifferenceIsAnErrorThatNamesTheFirstTen) {
  Tensors other = Detector(3, 7);
  other["roi_head.bbox_head.fc_reg.weight"] = torch::zeros({4, 6});  // class-agnostic
  other["rpn_head.rpn_cls.weight"] = torch::zeros({9, 4, 1, 1});
  other.erase("backbone.conv1.weight");
  for (int i = 0; i < 20; ++i) other[absl::StrCat("neck.more.", i)] = torch::zeros({1});
  const absl::Status status = LoadStartingWeights(Write(StateOf(other)), module_).status();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("a.pth (mmdetection 3 detector) does not fit the model in 23"),
                    HasSubstr("backbone.conv1.weight is missing"),
                    HasSubstr("rpn_head.rpn_cls.weight is (9, 4, 1, 1), not (3, 4, 1, 1)"),
                    HasSubstr("roi_head.bbox_head.fc_reg.weight is (4, 6), not (12, 6)"),
                    HasSubstr("neck.more.0 is unknown"), HasSubstr("; ...")));
  EXPECT_THAT(NamesWithout(0), IsEmpty());
}

TEST_F(StartingWeightsTest, CountsOfBatchesMayBeMissing) {
  Tensors old = Detector(3, 7);
  old.erase("backbone.bn1.num_batches_tracked");
  const absl::StatusOr<LoadedWeights> loaded = LoadStartingWeights(Write(StateOf(old)), module_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(NamesWithout(7), ElementsAre("backbone.bn1.num_batches_tracked"));
}

TEST_F(StartingWeightsTest, WhatIsNoWeightsNamesTheFile) {
  for (const std::string& bytes : {std::string(), std::string("hello"), testing::SmallestPth()}) {
    const absl::Status status = LoadStartingWeights(WriteBytes(bytes), module_).status();
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr((folder_ / "a.pth").string()));
  }
  EXPECT_TRUE(absl::IsNotFound(LoadStartingWeights(folder_ / "absent.pth", module_).status()));
}

// Name and shape of each line "name<TAB>[4, 3]<TAB>param".
std::vector<std::pair<std::string, std::vector<int64_t>>> ReadKeys(const fs::path& path) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> keys;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    std::vector<int64_t> shape;
    for (absl::string_view side :
         absl::StrSplit(fields.at(1), absl::ByAnyChar("[], "), absl::SkipEmpty())) {
      int64_t number = 0;
      EXPECT_TRUE(absl::SimpleAtoi(side, &number)) << line;
      shape.push_back(number);
    }
    keys.emplace_back(fields.at(0), shape);
  }
  return keys;
}

TEST(StartingWeightsKeysTest, EveryNameOf06BecomesOneOf3) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no shared data";
  for (const char* model :
       {"hrnetv2p_w18", "hrnetv2p_w32", "hrnetv2p_w40", "hrnetv2p_w48", "r50_fpn"}) {
    SCOPED_TRACE(model);
    const fs::path keys = *shared / "reference/keys" / absl::StrCat("faster_rcnn_", model);
    NamedTensors old;
    for (const auto& [name, shape] : ReadKeys(keys.string() + "_v0.6.txt")) {
      old.emplace_back(name, torch::empty(shape, at::kByte));
    }
    ASSERT_GT(old.size(), 300u);
    const Weights weights = Recognise(old);
    EXPECT_EQ(weights.kind, WeightsKind::kMmdetection06);
    std::vector<std::pair<std::string, std::vector<int64_t>>> converted;
    for (const auto& [name, tensor] : weights.tensors) {
      converted.emplace_back(name, tensor.sizes().vec());
    }
    EXPECT_EQ(converted, ReadKeys(keys.string() + "_mmdet3.txt"));
  }
}

// Written by Python: torch.save of mmdetection's model, with its optimizer and as a plain dict.
TEST(StartingWeightsInteropTest, ReadsPythonsFiles) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no shared data";
  const absl::StatusOr<Weights> same = ReadWeights(*shared / "oracle/cases/tiny_init.safetensors");
  ASSERT_TRUE(same.ok()) << same.status();
  const Tensors expected(same->tensors.begin(), same->tensors.end());
  for (const char* name : {"tiny_init.pth", "tiny_init_plain.pth"}) {
    const absl::StatusOr<Weights> weights = ReadWeights(*shared / "oracle/cases" / name);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(weights->kind, WeightsKind::kMmdetection);
    EXPECT_EQ(weights->tensors.size(), 566u);
    EXPECT_EQ(weights->tensors.front().first, "backbone.conv1.weight");
    int compared = 0;
    for (const auto& [key, tensor] : weights->tensors) {
      const auto found = expected.find(key);
      if (found == expected.end()) continue;
      EXPECT_TRUE(torch::equal(found->second, tensor)) << key;
      ++compared;
    }
    EXPECT_GT(compared, 100);
  }
}

}  // namespace
}  // namespace muster::train
