#include "worker/checkpoint/pth_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>

#include "common/base/files.h"
#include "tests/support/pth_builder.h"

namespace muster::checkpoint {
namespace {

using ::testing::AllOf;
using testing::CountingTensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::OldPthOf;
using testing::PthOf;
using testing::PthOfRecords;

Value Example() {
  Value state = Value::OrderedDict();
  state.Set("module.conv.weight", Value::OfTensor(CountingTensor({2, 3})));
  state.Set("bn.num_batches_tracked", Value::OfTensor(CountingTensor({}, ElementType::kInt64)));
  state.Set("empty", Value::OfTensor(CountingTensor({0, 4})));
  Value meta = Value::Dict();
  meta.Set("epoch", Value::Integer(3));
  Value value = Value::Dict();
  value.Set("meta", meta);
  value.Set("state_dict", state);
  return value;
}

std::filesystem::path Golden(const std::string& name) {
  return std::filesystem::path(std::getenv("MUSTER_SOURCE")) / "tests/golden/checkpoints" / name;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// The elements, in order of index.
template <typename T>
std::vector<T> Elements(const Tensor& tensor) {
  std::vector<T> elements;
  std::vector<int64_t> index(tensor.shape.size(), 0);
  for (const int64_t side : tensor.shape) {
    if (side == 0) return elements;
  }
  while (true) {
    int64_t at = tensor.offset;
    for (size_t i = 0; i < index.size(); ++i) at += index[i] * tensor.strides[i];
    T element;
    std::memcpy(&element, tensor.storage->data + at * static_cast<int64_t>(sizeof(T)), sizeof(T));
    elements.push_back(element);
    size_t i = index.size();
    while (i > 0 && ++index[i - 1] == tensor.shape[i - 1]) index[--i] = 0;
    if (i == 0) return elements;
  }
}

void ExpectExample(const absl::StatusOr<Value>& value) {
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(value->Find("meta")->Find("epoch")->integer(), 3);
  const absl::StatusOr<NamedTensors> tensors = TensorsOf(*value->Find("state_dict"), "a.pth");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].first, "conv.weight");
  EXPECT_THAT(Elements<float>((*tensors)[0].second), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT((*tensors)[2].second.shape, ElementsAre(0, 4));
}

TEST(PthReaderTest, ReadsBothFormats) {
  ExpectExample(ReadPthFrom(PthOf(Example()), "a.pth"));
  ExpectExample(ReadPthFrom(OldPthOf(Example()), "a.pth"));
}

TEST(PthReaderTest, EveryCutIsOneErrorThatNamesTheFile) {
  for (const std::string& bytes : {PthOf(Example()), OldPthOf(Example())}) {
    for (size_t size = 0; size < bytes.size(); ++size) {
      const absl::StatusOr<Value> value =
          ReadPthFrom(absl::string_view(bytes).substr(0, size), "cut.pth");
      ASSERT_FALSE(value.ok()) << size << " of " << bytes.size();
      EXPECT_TRUE(absl::IsInvalidArgument(value.status()));
      EXPECT_THAT(Message(value.status()), HasSubstr("cut.pth")) << size;
    }
  }
}

TEST(PthReaderTest, AFlippedBitOfAContainerIsNoticedOrHarmless) {
  const std::string bytes = PthOf(Example());
  int refused = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    const absl::StatusOr<Value> value = ReadPthFrom(flipped, "flipped.pth");
    if (value.ok()) {
      ExpectExample(value);
    } else {
      ++refused;
      EXPECT_THAT(Message(value.status()), HasSubstr("flipped.pth"));
    }
  }
  EXPECT_GT(refused, 200);
}

// An old file has no checksums: any value may come out of it, but nothing else may happen.
TEST(PthReaderTest, AFlippedByteOfAnOldFileGivesAValueOrAnError) {
  const std::string bytes = OldPthOf(Example());
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string flipped = bytes;
    flipped[random() % bytes.size()] = static_cast<char>(random());
    const absl::StatusOr<Value> value = ReadPthFrom(flipped, "flipped.pth");
    if (value.ok()) continue;
    EXPECT_THAT(Message(value.status()), HasSubstr("flipped.pth"));
  }
}

TEST(PthReaderTest, RefusesWhatIsNoCheckpoint) {
  const std::string old = OldPthOf(Example());
  const auto replaced = [&](const std::string& what, const std::string& by) {
    std::string bytes = old;
    const size_t at = bytes.find(what);
    EXPECT_NE(at, std::string::npos);
    return bytes.replace(at, what.size(), by);
  };
  const std::string little_endian("little_endian\x88");
  const std::string big_endian("little_endian\x89");
  const std::string protocol("\x80\x02J\xe9\x03\0\0.", 8);
  const std::string other_protocol("\x80\x02J\xea\x03\0\0.", 8);
  const struct {
    std::string bytes;
    const char* expected;
  } cases[] = {
      {"", "it is empty"},
      {"hello", "the pickle is damaged"},
      {"\x80\x02K\x01.", "neither a zip container nor an old PyTorch file"},
      {replaced(protocol, other_protocol), "its protocol is not 1001"},
      {replaced(little_endian, big_endian), "not little-endian"},
      {PthOfRecords({{"other", "x"}}), "it has no data.pkl"},
      {PthOfRecords({{"data.pkl", "}."}, {"byteorder", "big"}}), "not little-endian"},
      {PthOfRecords({{"data.pkl", "c__torch__\nModel\n)\x81}b."}}),
       "the pickle holds an object of __torch__.Model"},
  };
  for (const auto& [bytes, expected] : cases) {
    const absl::StatusOr<Value> value = ReadPthFrom(bytes, "bad.pth");
    ASSERT_FALSE(value.ok()) << expected;
    EXPECT_THAT(Message(value.status()), AllOf(HasSubstr("bad.pth"), HasSubstr(expected)));
  }
}

std::string NumberBytes(uint32_t number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof(number));
}

std::string TensorOfElements(const std::string& key, uint32_t elements) {
  std::string pickle = "ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU";
  pickle += static_cast<char>(key.size());
  pickle += key +
            "U\x03"
            "cpuJ" +
            NumberBytes(elements) + "tQK";
  pickle += '\0';
  return pickle + "J" + NumberBytes(elements) + "\x85K\x01\x85\x89}tR";
}

TEST(PthReaderTest, DeclaredMemoryIsNotMoreThanTheFileHas) {
  // One storage of 4 GiB that the container does not have.
  absl::StatusOr<Value> value = ReadPthFrom(
      PthOfRecords({{"data.pkl", TensorOfElements("0", 1 << 30) + "."}, {"data/0", "1234"}}),
      "huge.pth");
  EXPECT_THAT(Message(value.status()), AllOf(HasSubstr("huge.pth"), HasSubstr("another size")));

  // An old file of a few kilobytes that declares a hundred times a thousand elements.
  const std::string old = OldPthOf(Value::Dict());
  std::string header = old.substr(0, old.find("}(u.", old.find("little_endian")));
  std::string many = "(";
  for (int i = 0; i < 100; ++i) many += TensorOfElements(std::to_string(i), 1000);
  value = ReadPthFrom(header + "\x80\x02" + many + "t.", "many.pth");
  EXPECT_THAT(Message(value.status()),
              AllOf(HasSubstr("many.pth"), HasSubstr("larger than what the file holds")));
}

TEST(PthReaderTest, AStateDictHoldsTensorsAlone) {
  Value state = Value::Dict();
  state.Set("weight", Value::Integer(1));
  EXPECT_THAT(Message(TensorsOf(state, "a.pth").status()),
              AllOf(HasSubstr("a.pth"), HasSubstr("weight is no tensor")));
  Value twice = Value::Dict();
  twice.Set("w", Value::OfTensor(CountingTensor({1})));
  twice.Set("module.w", Value::OfTensor(CountingTensor({1})));
  EXPECT_THAT(Message(TensorsOf(twice, "a.pth").status()), HasSubstr("there twice"));
  EXPECT_FALSE(TensorsOf(Value::Integer(1), "a.pth").ok());
}

// What PyTorch itself wrote (tests/golden/checkpoints/make.py).
TEST(PthReaderGoldenTest, ReadsTorchsFilesAndSkipsTheirForeignRecords) {
  for (const char* name : {"modern.pth", "old.pth"}) {
    SCOPED_TRACE(name);
    const absl::StatusOr<Value> value = ReadPth(Golden(name));
    ASSERT_TRUE(value.ok()) << value.status();
    const Value& meta = *value->Find("meta");
    EXPECT_EQ(meta.Find("epoch")->integer(), 3);
    EXPECT_EQ(meta.Find("iter")->integer(), int64_t{1} << 40);
    EXPECT_EQ(meta.Find("negative")->integer(), -7);
    EXPECT_EQ(meta.Find("lr")->real(), 0.02);
    EXPECT_EQ(meta.Find("yes")->boolean(), true);
    EXPECT_EQ(*(*meta.Find("dataset_meta")->Find("classes")->items())[1].text(), "d\xc3\xb6g");
    EXPECT_EQ(meta.Find("size")->items()->size(), 2u);
    for (const char* foreign : {"numpy", "array", "set", "config", "dtype", "device"}) {
      EXPECT_NE(meta.Find(foreign)->opaque_class(), nullptr) << foreign;
    }
    EXPECT_EQ(*meta.Find("config")->opaque_class(), "mmengine.config.config.ConfigDict");
    const Value* loss = value->Find("message_hub")->Find("log_scalars")->Find("train/loss");
    EXPECT_EQ(*loss->opaque_class(), "mmengine.logging.history_buffer.HistoryBuffer");
    EXPECT_TRUE(value->Find("optimizer")->Find("state")->is_dict());

    const absl::StatusOr<NamedTensors> tensors = TensorsOf(*value->Find("state_dict"), name);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ(tensors->size(), 20u);
    EXPECT_EQ(tensors->front().first, "weight");
    const auto find = [&](const std::string& key) -> const Tensor& {
      for (const auto& [tensor_name, tensor] : *tensors) {
        if (tensor_name == key) return tensor;
      }
      ADD_FAILURE() << "no tensor " << key;
      return tensors->front().second;
    };
    EXPECT_THAT(Elements<float>(find("whole")), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
    EXPECT_THAT(Elements<float>(find("row")), ElementsAre(4, 5, 6, 7));
    EXPECT_EQ(find("row").storage, find("whole").storage);
    EXPECT_THAT(find("transposed").shape, ElementsAre(4, 3));
    EXPECT_THAT(Elements<float>(find("transposed")),
                ElementsAre(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11));
    EXPECT_THAT(Elements<float>(find("every_other")), ElementsAre(0, 2, 4, 6, 8, 10));
    EXPECT_THAT(Elements<float>(find("parameter")), ElementsAre(1.5, -2));
    EXPECT_THAT(Elements<float>(find("scalar")), ElementsAre(2.5));
    EXPECT_THAT(Elements<float>(find("empty")), ElementsAre());
    EXPECT_THAT(Elements<int64_t>(find("num_batches_tracked")), ElementsAre(0));
    EXPECT_THAT(Elements<double>(find("torch.float64")), ElementsAre(0, 1, 2, 100));
    // The bits of 0, 1, 2 and 100.
    EXPECT_THAT(Elements<uint16_t>(find("torch.float16")), ElementsAre(0, 0x3c00, 0x4000, 0x5640));
    EXPECT_THAT(Elements<uint16_t>(find("torch.bfloat16")), ElementsAre(0, 0x3f80, 0x4000, 0x42c8));
    EXPECT_THAT(Elements<int32_t>(find("torch.int32")), ElementsAre(0, 1, 2, 100));
    EXPECT_THAT(Elements<int16_t>(find("torch.int16")), ElementsAre(0, 1, 2, 100));
    EXPECT_THAT(Elements<int8_t>(find("torch.int8")), ElementsAre(0, 1, 2, 100));
    EXPECT_THAT(Elements<uint8_t>(find("torch.uint8")), ElementsAre(0, 1, 2, 100));
    EXPECT_THAT(Elements<uint8_t>(find("torch.bool")), ElementsAre(1, 0, 1));
  }
  EXPECT_TRUE(ReadPth(Golden("protocol_4.pth")).ok());
}

TEST(PthReaderGoldenTest, RefusesForeignClassesAmongTheTensors) {
  const struct {
    const char* file;
    const char* expected;
  } cases[] = {
      {"calls_system.pth", "posix.system"},
      {"calls_system_in_state_dict.pth", "posix.system"},
      {"config_in_state_dict.pth", "mmengine.config.config.ConfigDict"},
      {"whole_module.pth", "torch.nn.modules.linear.Linear"},
  };
  for (const auto& [file, expected] : cases) {
    const absl::StatusOr<Value> value = ReadPth(Golden(file));
    const absl::Status status =
        value.ok() ? TensorsOf(*value->Find("state_dict"), file).status() : value.status();
    ASSERT_FALSE(status.ok()) << file;
    EXPECT_THAT(Message(status), AllOf(HasSubstr(file), HasSubstr(expected)));
    EXPECT_FALSE(std::filesystem::exists("executed"));
  }
}

TEST(PthReaderGoldenTest, CutsOfTorchsFilesAreErrors) {
  for (const char* name : {"modern.pth", "old.pth"}) {
    const std::string bytes = *base::ReadFile(Golden(name));
    for (size_t size = 0; size < bytes.size(); size += 9) {
      const absl::StatusOr<Value> value =
          ReadPthFrom(absl::string_view(bytes).substr(0, size), name);
      ASSERT_FALSE(value.ok()) << size << " of " << name;
      EXPECT_THAT(Message(value.status()), HasSubstr(name));
    }
  }
}

TEST(PthReaderTest, CheckPthLooksAtTheDirectory) {
  EXPECT_TRUE(CheckPth(Golden("modern.pth")).ok());
  for (const char* name : {"old.pth", "absent.pth", "make.py"}) {
    const absl::Status status = CheckPth(Golden(name));
    EXPECT_THAT(Message(status), AllOf(HasSubstr(name), HasSubstr("no zip container")));
  }
}

}  // namespace
}  // namespace muster::checkpoint
