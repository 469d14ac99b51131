#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"

#include "tests/support/pth_builder.h"
#include "worker/checkpoint/pickle.h"

namespace muster::checkpoint {
namespace {

using ::testing::HasSubstr;

const LoadStorage kNoStorages =
    [](const StorageReference&) -> absl::StatusOr<std::shared_ptr<const Storage>> {
  return absl::InvalidArgumentError("no storages here");
};

const LoadStorage kFourFloats =
    [](const StorageReference&) -> absl::StatusOr<std::shared_ptr<const Storage>> {
  return testing::CountingTensor({4}).storage;
};

absl::StatusOr<Value> Read(const std::string& pickle) {
  return Unpickle("\x80\x02" + pickle + ".", kNoStorages);
}

std::string Message(const absl::StatusOr<Value>& value) {
  return std::string(value.status().message());
}

std::string Text(const std::string& text) {
  return absl::StrCat(absl::string_view("X", 1), std::string(1, static_cast<char>(text.size())),
                      std::string(3, '\0'), text);
}

TEST(UnpickleTest, NothingIsCalledAndAForeignResultIsRefusedByName) {
  for (const std::string& pickle :
       {"cposix\nsystem\n" + Text("touch executed") + "\x85R", std::string("cposix\nsystem\n"),
        "cbuiltins\neval\n" + Text("1") + "\x85\x81",
        Text("posix") + Text("system") + "\x93" + Text("touch executed") + "\x85R",
        // getattr(os, "system")("touch executed")
        "cbuiltins\ngetattr\ncos\nposix\n" + Text("system") + "\x86R" + Text("x") + "\x85R"}) {
    const absl::StatusOr<Value> value = Read(pickle);
    ASSERT_FALSE(value.ok()) << pickle;
    EXPECT_THAT(Message(value), HasSubstr("the pickle holds an object of "));
    EXPECT_THAT(Message(value),
                ::testing::AnyOf(HasSubstr("posix.system"), HasSubstr("builtins.eval"),
                                 HasSubstr("builtins.getattr")));
  }
}

TEST(UnpickleTest, ForeignObjectsInsideKeepTheirNameAlone) {
  // {"a": ConfigDict({"b": 1}) with state, "c": 2}
  const absl::StatusOr<Value> value =
      Read("}(" + Text("a") + "cmmengine.config\nConfigDict\n)\x81(" + Text("b") + "K\x01u}b" +
           Text("c") + "K\x02u");
  ASSERT_TRUE(value.ok()) << value.status();
  ASSERT_NE(value->Find("a"), nullptr);
  EXPECT_EQ(*value->Find("a")->opaque_class(), "mmengine.config.ConfigDict");
  EXPECT_EQ(value->Find("c")->integer(), 2);
  EXPECT_FALSE(Pickle(*value, [](const Tensor&) { return "0"; }).ok());
}

TEST(UnpickleTest, RefusesCyclesAndDeepNesting) {
  EXPECT_THAT(Message(Read("]q\x01h\x01"
                           "a")),
              HasSubstr("contains itself"));
  // A list in a tuple in the list.
  EXPECT_THAT(Message(Read("]q\x01h\x01\x85"
                           "a")),
              HasSubstr("cannot grow"));
  EXPECT_THAT(Message(Read(std::string(100000, ']') + std::string(99999, 'a'))),
              HasSubstr("nested too deeply"));
  std::string tuples = "N";
  for (int i = 0; i < 100000; ++i) tuples += '\x85';
  EXPECT_THAT(Message(Read(tuples)), HasSubstr("nested too deeply"));
}

TEST(UnpickleTest, RefusesWhatWouldMultiplyItsInput) {
  // A memo of millions of values.
  std::string memo = "N";
  for (int i = 0; i < 1100000; ++i) memo += '\x94';
  EXPECT_THAT(Message(Read(memo)), HasSubstr("too long"));
  // One list of pairs, made an OrderedDict again and again.
  std::string copies = "(](";
  for (int i = 0; i < 10000; ++i) copies += "NN\x86";
  copies += "eq";
  copies += '\0';
  for (int i = 0; i < 1000; ++i) {
    copies += "ccollections\nOrderedDict\nh";
    copies += std::string(1, '\0') + "\x85R";
  }
  EXPECT_THAT(Message(Read(copies + "t")), HasSubstr("copies too many"));
  // One long text as the name of many classes.
  const std::string text(1000000, 'x');
  std::string size("X\x40\x42\x0f\0", 5);
  EXPECT_THAT(Message(Read(size + text + "q\x01h\x01\x93")), HasSubstr("too long a name"));
}

TEST(UnpickleTest, RefusesWhatIsNoProgramOfAPickle) {
  for (const char* pickle :
       {"",     "NN",   "(",    "e",       "Na",     "]Nu", "}Ns",  "}(Nu", "NR",
        "NNR",  ")R",   "Nb",   "h\x01",   "q\x01",  "NQ",  "0",    "1",    "\x86",
        "\xff", "I1\n", "P1\n", "cno end", "NN\x93", "(N0", "}NNNs"}) {
    EXPECT_FALSE(Read(pickle).ok()) << pickle;
  }
  EXPECT_FALSE(Unpickle("\x80\x06N.", kNoStorages).ok());
  EXPECT_FALSE(Unpickle("", kNoStorages).ok());
}

TEST(UnpickleTest, RandomProgramsGiveAValueOrAnError) {
  std::mt19937 random(7);
  const std::string opcodes = "\x80\x02(.]})tasueXqhQRbNcKJM\x85\x86\x87\x8a\x81\x93\x94\x8f\x90";
  for (int i = 0; i < 10000; ++i) {
    std::string bytes;
    for (int k = 0; k < 40; ++k) {
      bytes += random() % 4 == 0 ? static_cast<char>(random()) : opcodes[random() % opcodes.size()];
    }
    const absl::StatusOr<Value> value = Unpickle(bytes, kFourFloats);
    EXPECT_TRUE(value.ok() || absl::IsInvalidArgument(value.status())) << value.status();
  }
}

TEST(UnpickleTest, RefusesATensorBeyondItsStorage) {
  const auto tensor = [&](int size, int stride, int offset) {
    const auto number = [](int value) { return std::string("K") + static_cast<char>(value); };
    return Unpickle(
        "\x80\x02"
        "ctorch._utils\n_rebuild_tensor_v2\n((" +
            Text("storage") + "ctorch\nFloatStorage\n" + Text("0") + Text("cpu") + "K\x04tQ" +
            number(offset) + number(size) + "\x85" + number(stride) + "\x85\x89}tR.",
        kFourFloats);
  };
  ASSERT_TRUE(tensor(4, 1, 0).ok()) << tensor(4, 1, 0).status();
  EXPECT_TRUE(tensor(2, 2, 1).ok());
  EXPECT_FALSE(tensor(2, 3, 1).ok());
  EXPECT_FALSE(tensor(5, 1, 0).ok());
  EXPECT_FALSE(tensor(4, 1, 1).ok());
  EXPECT_FALSE(tensor(100, 0, 0).ok());  // a few bytes may not stand for many
  EXPECT_TRUE(tensor(0, 1, 0).ok());
}

TEST(UnpickleTest, ReadsWhatPickleWrites) {
  Value inner = Value::OrderedDict();
  inner.Set("t", Value::OfTensor(testing::CountingTensor({2, 2})));
  Value value = Value::Dict();
  value.Set("integers", Value::Tuple({Value::Integer(0), Value::Integer(255), Value::Integer(256),
                                      Value::Integer(-1), Value::Integer(int64_t{1} << 40),
                                      Value::Integer(INT64_MIN)}));
  value.Set("real", Value::Real(-0.1));
  value.Set("text", Value::Text("d\xc3\xb6g"));
  value.Set("list", Value::List({Value(), Value::Bool(true), Value::Bool(false)}));
  value.Set("inner", inner);
  value.Set("again", inner);
  const absl::StatusOr<std::string> pickle = Pickle(value, [](const Tensor&) { return "0"; });
  ASSERT_TRUE(pickle.ok());
  size_t consumed = 0;
  const absl::StatusOr<Value> back = Unpickle(*pickle + "rest", kFourFloats, &consumed);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(consumed, pickle->size());
  std::vector<int64_t> integers;
  for (const Value& item : *back->Find("integers")->items()) integers.push_back(*item.integer());
  EXPECT_THAT(integers, ::testing::ElementsAre(0, 255, 256, -1, int64_t{1} << 40, INT64_MIN));
  EXPECT_EQ(back->Find("real")->real(), -0.1);
  EXPECT_EQ(*back->Find("text")->text(), "d\xc3\xb6g");
  EXPECT_EQ((*back->Find("list")->items())[1].boolean(), true);
  EXPECT_EQ(back->Find("inner")->kind(), Value::Kind::kOrderedDict);
  EXPECT_EQ(back->Find("again")->Find("t")->tensor()->shape, (std::vector<int64_t>{2, 2}));
}

}  // namespace
}  // namespace muster::checkpoint
