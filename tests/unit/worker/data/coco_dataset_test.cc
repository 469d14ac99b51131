#include "worker/data/coco_dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/image_source.h"

namespace muster::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CocoDatasetTest : public ::testing::Test {
 protected:
  absl::StatusOr<CocoDataset> Load() {
    coco_.Write(folder_.path(), "train");
    return CocoDataset::Load(folder_.path() / "annotations/instances_train.json");
  }
  std::string LoadError() { return std::string(Load().status().message()); }

  testing::TemporaryFolder folder_;
  testing::TinyCoco coco_;
};

TEST_F(CocoDatasetTest, BoxesLabelsAndCrowd) {
  const int64_t image = coco_.AddImage("a.jpg", {100, 80});
  coco_.json["categories"] = {{{"id", 9}, {"name", "dog"}}, {{"id", 4}, {"name", "cat"}}};
  coco_.AddObject(image, {1, 2, 30.5, 40}, 9);
  coco_.AddObject(image, {10, 20, 50, 50}, 4, /*crowd=*/true);
  const auto dataset = Load();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ(dataset->categories().size(), 2U);
  EXPECT_EQ(dataset->categories()[0].name, "cat");
  const DatasetImage& loaded = dataset->images().at(0);
  EXPECT_THAT(loaded.boxes, ElementsAre(Box{1, 2, 31.5, 42}));
  EXPECT_THAT(loaded.labels, ElementsAre(1));
  EXPECT_THAT(loaded.crowd_boxes, ElementsAre(Box{10, 20, 60, 70}));
  EXPECT_EQ(dataset->clipped_boxes(), 0U);
}

TEST_F(CocoDatasetTest, UnusableObjectsAreLeftOut) {
  const int64_t image = coco_.AddImage("a.jpg", {100, 80});
  coco_.AddObject(image, {1, 1, 0.5, 20});
  coco_.AddObject(image, {1, 1, 20, 0.5});
  coco_.AddObject(image, {1, 1, 20, 20});
  coco_.json["annotations"][2]["area"] = 0;
  coco_.AddObject(image, {1, 1, 20, 20});
  coco_.json["annotations"][3]["ignore"] = 1;
  coco_.AddObject(image, {5, 5, 20, 20});
  coco_.AddObject(image, {5, 5, 0, 20});
  coco_.AddObject(image, {30, 30, -10, -10});  // of positive area
  ::testing::internal::CaptureStderr();
  const auto dataset = Load();
  const std::string log = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->images()[0].boxes, ElementsAre(Box{5, 5, 25, 25}));
  EXPECT_EQ(dataset->flat_boxes(), 5U);
  EXPECT_EQ(dataset->outside_boxes(), 0U);
  EXPECT_THAT(log, AllOf(HasSubstr("left_out=5"), HasSubstr("annotation id 1")));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
}

TEST_F(CocoDatasetTest, BoxesOutsideTheImageGiveOneWarning) {
  const int64_t image = coco_.AddImage("a.jpg", {100, 80});
  coco_.AddObject(image, {-5, 10, 20, 20});
  coco_.AddObject(image, {90, 70, 20, 20});
  coco_.AddObject(image, {100, 0, 20, 20});
  coco_.AddObject(image, {60, 40, 40.005, 40});  // a rounding error, not worth a word
  ::testing::internal::CaptureStderr();
  const auto dataset = Load();
  const std::string log = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->images()[0].boxes,
              ElementsAre(Box{-5, 10, 15, 30}, Box{90, 70, 110, 90}, Box{60, 40, 100.005F, 80}));
  EXPECT_EQ(dataset->clipped_boxes(), 2U);
  EXPECT_EQ(dataset->outside_boxes(), 1U);
  EXPECT_THAT(log, AllOf(HasSubstr("clipped=2"), HasSubstr("left_out=1"),
                         HasSubstr("annotation id 1"), HasSubstr("a.jpg")));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
}

TEST_F(CocoDatasetTest, TrainingLeavesOutSmallAndUnannotatedImages) {
  coco_.AddObject(coco_.AddImage("a.jpg", {100, 80}), {1, 1, 20, 20});
  coco_.AddImage("empty.jpg", {100, 80});
  coco_.AddObject(coco_.AddImage("small.jpg", {100, 31}), {1, 1, 20, 20});
  coco_.AddObject(coco_.AddImage("crowd.jpg", {32, 100}), {1, 1, 20, 20}, 1, /*crowd=*/true);
  const auto dataset = Load();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->TrainingImages(32, false), ElementsAre(0, 3));
  EXPECT_THAT(dataset->TrainingImages(0, true), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(dataset->AllImages(), ElementsAre(0, 1, 2, 3));
}

TEST_F(CocoDatasetTest, ErrorsNameFileAnnotationAndField) {
  const int64_t image = coco_.AddImage("a.jpg", {100, 80});
  coco_.AddObject(image, {1, 1, 20, 20});
  const testing::TinyCoco good = coco_;
  const auto annotation = [&]() -> nlohmann::ordered_json& { return coco_.json["annotations"][0]; };

  annotation()["image_id"] = 77;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("instances_train.json"), HasSubstr("id 1"),
                                 HasSubstr("image_id"), HasSubstr("77")));
  coco_ = good;
  annotation()["category_id"] = 3;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("id 1"), HasSubstr("category_id"), HasSubstr("3")));
  coco_ = good;
  annotation().erase("bbox");
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("id 1"), HasSubstr("bbox"), HasSubstr("missing")));
  coco_ = good;
  annotation()["bbox"] = {1, 2, 3};
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("id 1"), HasSubstr("bbox")));
  coco_ = good;
  annotation()["bbox"] = {1, 2, 3, nullptr};
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("id 1"), HasSubstr("bbox")));
  coco_ = good;
  annotation().erase("area");
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("id 1"), HasSubstr("area")));
  coco_ = good;
  coco_.json["annotations"].push_back(annotation());
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("annotations[1]"), HasSubstr("annotations[0]")));
  coco_ = good;
  coco_.json["images"].push_back(coco_.json["images"][0]);
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("images[1]"), HasSubstr("images[0]")));
  coco_ = good;
  coco_.json["images"][0].erase("file_name");
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("image id 1"), HasSubstr("file_name")));
  coco_ = good;
  coco_.json["images"][0]["width"] = 0;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("image id 1"), HasSubstr("width")));
  coco_ = good;
  coco_.json["images"][0]["id"] = "one";
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("images[0]"), HasSubstr("field id")));
  coco_ = good;
  coco_.json.erase("categories");
  EXPECT_THAT(LoadError(), HasSubstr("categories"));
}

TEST_F(CocoDatasetTest, NumbersThatAreNotFiniteAndBrokenFiles) {
  const std::filesystem::path path = folder_.path() / "file.json";
  const auto error = [&](const std::string& text) {
    testing::WriteText(path, text);
    return std::string(CocoDataset::Load(path).status().message());
  };
  const std::string head =
      R"({"images":[{"id":1,"file_name":"a","width":9,"height":9}],"categories":[{"id":1,"name":"a"}],)";
  // What Python's json.dumps makes of a NaN.
  EXPECT_THAT(error(head + R"("annotations":[{"id":5,"image_id":1,"category_id":1,)" +
                    R"("bbox":[NaN,1,2,3],"area":3}]})"),
              AllOf(HasSubstr("id 5"), HasSubstr("bbox"), HasSubstr("finite")));
  EXPECT_THAT(error(head + R"("annotations":[{"id":5,"image_id":1,"category_id":1,)" +
                    R"("bbox":[1e999,1,2,3],"area":3}]})"),
              AllOf(HasSubstr("id 5"), HasSubstr("bbox")));
  EXPECT_THAT(error(head + R"("annotations":[{"id":5,)"), HasSubstr("file.json"));
  EXPECT_THAT(error("[]"), HasSubstr("file.json"));
  EXPECT_THAT(error(""), HasSubstr("file.json"));
  EXPECT_TRUE(absl::IsNotFound(CocoDataset::Load(folder_.path() / "none.json").status()));
}

TEST_F(CocoDatasetTest, IdsFromZeroAndBeyond32Bits) {
  constexpr int64_t kLarge = int64_t{3} << 40;
  coco_.json["categories"] = {{{"id", 0}, {"name", "cat"}}, {{"id", kLarge}, {"name", "dog"}}};
  const int64_t first = coco_.AddImage("a.jpg", {100, 80});
  const int64_t second = coco_.AddImage("b.jpg", {100, 80});
  coco_.json["images"][0]["id"] = 0;
  coco_.json["images"][1]["id"] = kLarge + 1;
  coco_.AddObject(first, {1, 1, 20, 20}, kLarge);
  coco_.AddObject(second, {2, 2, 20, 20}, 0);
  coco_.json["annotations"][0]["id"] = 0;
  coco_.json["annotations"][0]["image_id"] = 0;
  coco_.json["annotations"][1]["id"] = kLarge + 2;
  coco_.json["annotations"][1]["image_id"] = kLarge + 1;
  const auto dataset = Load();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->images()[0].id, 0);
  EXPECT_EQ(dataset->images()[1].id, kLarge + 1);
  EXPECT_THAT(dataset->images()[0].labels, ElementsAre(1));
  EXPECT_THAT(dataset->images()[1].labels, ElementsAre(0));
}

TEST_F(CocoDatasetTest, HugeNumbersAreErrors) {
  const int64_t image = coco_.AddImage("a.jpg", {100, 80});
  coco_.AddObject(image, {1, 1, 20, 20});
  const testing::TinyCoco good = coco_;
  for (const auto& box : std::vector<std::vector<double>>{
           {1, 1, 1e12, 20}, {-1e300, 1, 20, 20}, {1, 1e8, 20, 20}, {1, 1, 20, -1e30}}) {
    coco_ = good;
    coco_.json["annotations"][0]["bbox"] = box;
    EXPECT_THAT(LoadError(), AllOf(HasSubstr("instances_train.json"), HasSubstr("annotation id 1"),
                                   HasSubstr("a.jpg"), HasSubstr("beyond 16777216 pixels")));
  }
  coco_ = good;
  coco_.json["images"][0]["width"] = int64_t{1} << 31;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("images[0]"), HasSubstr("width")));
  coco_ = good;
  coco_.json["images"][0]["height"] = -5;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("images[0]"), HasSubstr("height")));
  coco_ = good;
  coco_.json["annotations"][0]["id"] = uint64_t{1} << 63;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("annotations[0]"), HasSubstr("field id")));
  coco_ = good;
  coco_.json["annotations"][0]["image_id"] = 1.5;
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("annotations[0]"), HasSubstr("image_id")));
}

TEST_F(CocoDatasetTest, ListsThatAreNone) {
  coco_.AddObject(coco_.AddImage("a.jpg", {100, 80}), {1, 1, 20, 20});
  const testing::TinyCoco good = coco_;
  for (const char* list : {"images", "annotations", "categories"}) {
    coco_ = good;
    coco_.json[list] = {{"id", 1}};
    EXPECT_THAT(LoadError(),
                AllOf(HasSubstr("instances_train.json"), HasSubstr(list), HasSubstr("not a list")));
    coco_.json[list] = {1, 2};
    EXPECT_THAT(LoadError(), AllOf(HasSubstr(list), HasSubstr("[0]")));
  }
  coco_ = good;
  coco_.json["annotations"][0]["bbox"] = "1,1,20,20";
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("annotations[0]"), HasSubstr("bbox")));
  coco_ = good;
  coco_.json["annotations"][0]["iscrowd"] = "no";
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("annotations[0]"), HasSubstr("iscrowd")));
}

TEST_F(CocoDatasetTest, MissingMembersAreCountedAndNamed) {
  for (int i = 0; i < 8; ++i) {
    coco_.AddImage(std::to_string(i) + ".jpg", {40, 40});
  }
  coco_.members.erase(coco_.members.begin() + 1, coco_.members.end());
  const auto dataset = Load();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  const auto source = OpenImageSource(folder_.path() / "images/train.zip");
  ASSERT_TRUE(source.ok()) << source.status();
  const absl::Status status = CheckMembers(*dataset, dataset->AllImages(), **source);
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("train.zip"), HasSubstr("7 of 8"), HasSubstr("1.jpg, 2.jpg"),
                    HasSubstr("5.jpg, ..."), ::testing::Not(HasSubstr("6.jpg"))));
  EXPECT_TRUE(CheckMembers(*dataset, std::vector<int>{0}, **source).ok());
}

TEST(SharedDatasetTest, RealDataSetsLoadWhole) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no ../shared";
  const std::filesystem::path coco = *shared / "data/coco_cc";
  const auto train = CocoDataset::Load(coco / "annotations/instances_train.json");
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->images().size(), 45U);
  EXPECT_EQ(train->categories().size(), 80U);
  EXPECT_EQ(train->TrainingImages(32, false).size(), 44U);  // one has no annotation
  // Official ids with gaps give the same labels.
  const auto gaps = CocoDataset::Load(coco / "annotations/instances_train_cocoids.json");
  ASSERT_TRUE(gaps.ok()) << gaps.status();
  for (size_t i = 0; i < train->images().size(); ++i) {
    EXPECT_EQ(train->images()[i].labels, gaps->images()[i].labels);
  }
  const auto source = OpenImageSource(coco / "images/train.zip");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_TRUE(CheckMembers(*train, train->AllImages(), **source).ok());
}

}  // namespace
}  // namespace muster::data
