#include "worker/data/zip_image_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/folder_image_source.h"
#include "worker/data/zip_writer.h"

namespace muster::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ReadText;
using testing::WriteText;

std::string Text(absl::Span<const uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

class ImageSourceTest : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "train.zip"; }
  void Write(const std::vector<ZipMember>& members,
             ZipCompression compression = ZipCompression::kStored) {
    const absl::Status status = WriteZip(path(), members, compression);
    ASSERT_TRUE(status.ok()) << status;
  }
  // The archive with `bytes` in place of those at `offset`.
  void Patch(size_t offset, const std::string& bytes) {
    std::string archive = ReadText(path());
    archive.replace(offset, bytes.size(), bytes);
    WriteText(path(), archive);
  }
  std::string OpenError() const {
    return std::string(ZipImageSource::Open(path()).status().message());
  }
  std::string ReadError(const std::string& member) const {
    const auto source = ZipImageSource::Open(path());
    if (!source.ok()) return absl::StrCat("open: ", source.status().message());
    std::vector<uint8_t> scratch;
    return std::string((*source)->Read(member, &scratch).status().message());
  }

  testing::TemporaryFolder folder_;
};

TEST_F(ImageSourceTest, ReadsStoredMembersFromTheMapping) {
  Write({{"a.jpg", "first"}, {"b.jpg", ""}});
  const auto source = ZipImageSource::Open(path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->size(), 2U);
  std::vector<uint8_t> scratch;
  const auto a = (*source)->Read("a.jpg", &scratch);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(Text(*a), "first");
  EXPECT_TRUE(scratch.empty());
  const auto b = (*source)->Read("b.jpg", &scratch);
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_TRUE(b->empty());
}

TEST_F(ImageSourceTest, UnpacksDeflatedMembers) {
  const std::string text(100'000, 'x');
  Write({{"a.jpg", text}}, ZipCompression::kDeflated);
  EXPECT_LT(std::filesystem::file_size(path()), text.size() / 10);
  const auto source = ZipImageSource::Open(path());
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<uint8_t> scratch;
  const auto a = (*source)->Read("a.jpg", &scratch);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(Text(*a), text);
}

TEST_F(ImageSourceTest, FindsMembersBelowTheStem) {
  Write({{"train/a.jpg", "nested"}, {"b.jpg", "flat"}});
  const auto source = OpenImageSource(path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_TRUE((*source)->Contains("a.jpg"));
  EXPECT_TRUE((*source)->Contains("train/a.jpg"));
  EXPECT_TRUE((*source)->Contains("b.jpg"));
  EXPECT_FALSE((*source)->Contains("c.jpg"));
  std::vector<uint8_t> scratch;
  const auto a = (*source)->Read("a.jpg", &scratch);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(Text(*a), "nested");
}

TEST_F(ImageSourceTest, MissingMemberIsNamed) {
  Write({{"a.jpg", "first"}});
  EXPECT_THAT(ReadError("c.jpg"), AllOf(HasSubstr("train.zip"), HasSubstr("c.jpg")));
}

TEST_F(ImageSourceTest, EveryTruncationIsRefused) {
  Write({{"a.jpg", "first"}, {"b.jpg", "second"}});
  const std::string whole = ReadText(path());
  for (size_t size = 0; size < whole.size(); ++size) {
    WriteText(path(), whole.substr(0, size));
    EXPECT_THAT(OpenError(), HasSubstr("train.zip")) << size;
  }
}

TEST_F(ImageSourceTest, ChangedBytesAreNoticed) {
  Write({{"a.jpg", "first"}});
  Patch(ReadText(path()).find("first"), "F");
  EXPECT_THAT(ReadError("a.jpg"), AllOf(HasSubstr("a.jpg"), HasSubstr("checksum")));
}

TEST_F(ImageSourceTest, AnyChangedByteIsAnErrorOrHarmless) {
  Write({{"a.jpg", "first"}, {"b.jpg", "second"}});
  const std::string whole = ReadText(path());
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      WriteText(path(), changed);
      const auto source = ZipImageSource::Open(path());
      if (!source.ok()) continue;
      std::vector<uint8_t> scratch;
      const auto bytes = (*source)->Read("a.jpg", &scratch);
      if (bytes.ok()) {
        EXPECT_EQ(Text(*bytes), "first") << i;
      }
    }
  }
}

TEST_F(ImageSourceTest, LyingDirectoryIsRefused) {
  Write({{"a.jpg", "first"}, {"b.jpg", "second"}});
  const std::string whole = ReadText(path());
  const size_t first_entry = whole.find("PK\x01\x02");
  const size_t second_entry = whole.find("PK\x01\x02", first_entry + 1);
  // The second member's header offset is made the first one's.
  Patch(second_entry + 42, std::string(4, '\0'));
  EXPECT_THAT(OpenError(), HasSubstr("overlap"));
  WriteText(path(), whole);
  // The first member claims more bytes than there are.
  Patch(first_entry + 20, "\xff\xff\xff\x7f");
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("a.jpg"), HasSubstr("outside")));
  WriteText(path(), whole);
  // Twice the same name.
  Patch(second_entry + 46, "a");
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("a.jpg"), HasSubstr("twice")));
  WriteText(path(), whole);
  // The member's own header has another name.
  Patch(30, "z");
  EXPECT_THAT(ReadError("a.jpg"), AllOf(HasSubstr("a.jpg"), HasSubstr("header")));
}

TEST_F(ImageSourceTest, DeflatedMemberThatUnpacksToAnotherSizeIsRefused) {
  Write({{"a.jpg", std::string(1000, 'x')}}, ZipCompression::kDeflated);
  const size_t entry = ReadText(path()).find("PK\x01\x02");
  Patch(entry + 24, std::string("\x01\x00\x00\x00", 4));
  Patch(22, std::string("\x01\x00\x00\x00", 4));
  EXPECT_THAT(ReadError("a.jpg"), AllOf(HasSubstr("a.jpg"), HasSubstr("compressed")));
}

TEST_F(ImageSourceTest, HeaderThatDisagreesWithTheDirectoryIsRefused) {
  Write({{"a.jpg", "first"}, {"b.jpg", "second"}});
  const std::string whole = ReadText(path());
  for (const size_t field : {14, 18, 22}) {  // checksum, packed size, size
    WriteText(path(), whole);
    Patch(field, "\x07");
    EXPECT_THAT(ReadError("a.jpg"), AllOf(HasSubstr("train.zip"), HasSubstr("a.jpg"),
                                          HasSubstr("do not agree with the directory")))
        << field;
    EXPECT_EQ(ReadError("b.jpg"), "");
  }
  // Sizes that follow the data, as a writer that cannot seek leaves them.
  WriteText(path(), whole);
  Patch(6, std::string("\x08\0", 2));
  Patch(14, std::string(12, '\0'));
  EXPECT_EQ(ReadError("a.jpg"), "");
}

TEST_F(ImageSourceTest, SizesBeyondReasonAreRefusedBeforeTheyAreAllocated) {
  Write({{"a.jpg", std::string(1000, 'x')}}, ZipCompression::kDeflated);
  const std::string whole = ReadText(path());
  const size_t entry = whole.find("PK\x01\x02");
  const std::string huge("\xff\xff\xff\x7f", 4);  // 2 GiB
  Patch(entry + 24, huge);
  Patch(22, huge);
  EXPECT_THAT(ReadError("a.jpg"), AllOf(HasSubstr("a.jpg"), HasSubstr("too large")));
  WriteText(path(), whole);
  const std::string large("\0\0\0\x10", 4);  // 256 MiB
  Patch(entry + 24, large);
  Patch(22, large);
  EXPECT_THAT(ReadError("a.jpg"), AllOf(HasSubstr("a.jpg"), HasSubstr("more than")));
}

std::string Number(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

// The directory and end records for the one stored member of `plain`, a.jpg of 5 bytes, when its
// header lies at `offset`: all sizes and offsets in zip64 fields.
std::string Zip64Directory(const std::string& plain, uint64_t offset) {
  const size_t directory = plain.find("PK\x01\x02");
  const size_t end = plain.find("PK\x05\x06");
  std::string entry = plain.substr(directory, 46 + 5);
  entry.replace(20, 8, std::string(8, '\xff'));
  entry.replace(30, 4, Number(28, 4));
  entry.replace(42, 4, std::string(4, '\xff'));
  entry += Number(1, 2) + Number(24, 2) + Number(5, 8) + Number(5, 8) + Number(offset, 8);
  const uint64_t begin = offset + directory;
  std::string records = entry;
  records += "PK\x06\x06" + Number(44, 8) + Number(45, 2) + Number(45, 2) + Number(0, 8) +
             Number(1, 8) + Number(1, 8) + Number(entry.size(), 8) + Number(begin, 8);
  records += "PK\x06\x07" + Number(0, 4) + Number(begin + entry.size(), 8) + Number(1, 4);
  std::string tail = plain.substr(end, 22);
  tail.replace(8, 12, std::string(12, '\xff'));
  return records + tail;
}

TEST_F(ImageSourceTest, Zip64EndRecordIsRead) {
  Write({{"a.jpg", "first"}});
  const std::string whole = ReadText(path());
  const std::string member = whole.substr(0, whole.find("PK\x01\x02"));
  WriteText(path(), member + Zip64Directory(whole, 0));
  EXPECT_EQ(ReadError("a.jpg"), "");
}

TEST_F(ImageSourceTest, MemberBeyondFourGigabytesIsRead) {
  Write({{"a.jpg", "first"}});
  const std::string whole = ReadText(path());
  const std::string member = whole.substr(0, whole.find("PK\x01\x02"));
  constexpr uint64_t kOffset = (uint64_t{1} << 32) + 4096;
  {
    std::ofstream file(path(), std::ios::binary | std::ios::trunc);  // a hole, no bytes on the disk
    file.seekp(static_cast<std::streamoff>(kOffset));
    file << member << Zip64Directory(whole, kOffset);
    if (!file.good()) GTEST_SKIP() << "no sparse files of 4 GiB here";
  }
  const auto source = ZipImageSource::Open(path());
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<uint8_t> scratch;
  const auto a = (*source)->Read("a.jpg", &scratch);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(Text(*a), "first");
}

TEST_F(ImageSourceTest, NoZipFile) {
  WriteText(path(), "this is no archive at all");
  EXPECT_THAT(OpenError(), HasSubstr("not a zip file"));
  EXPECT_TRUE(absl::IsNotFound(ZipImageSource::Open(folder_.path() / "none.zip").status()));
  EXPECT_TRUE(absl::IsNotFound(OpenImageSource(folder_.path() / "none.zip").status()));
}

TEST_F(ImageSourceTest, ManyThreadsReadTheSame) {
  std::vector<ZipMember> members;
  for (int i = 0; i < 50; ++i) {
    members.push_back({absl::StrCat(i, ".jpg"), std::string(1000 + static_cast<size_t>(i), 'x')});
  }
  Write(members, ZipCompression::kDeflated);
  const auto source = ZipImageSource::Open(path());
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      std::vector<uint8_t> scratch;
      for (const ZipMember& member : members) {
        const auto bytes = (*source)->Read(member.name, &scratch);
        if (!bytes.ok() || Text(*bytes) != member.bytes) ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST_F(ImageSourceTest, FolderReadsFilesAndStaysInside) {
  std::filesystem::create_directories(folder_.path() / "images/sub");
  WriteText(folder_.path() / "images/sub/a.jpg", "bytes");
  WriteText(folder_.path() / "secret", "secret");
  const auto source = OpenImageSource(folder_.path() / "images");
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<uint8_t> scratch;
  const auto a = (*source)->Read("sub/a.jpg", &scratch);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(Text(*a), "bytes");
  EXPECT_TRUE((*source)->Contains("sub/a.jpg"));
  EXPECT_FALSE((*source)->Contains("sub"));
  EXPECT_FALSE((*source)->Contains("../secret"));
  EXPECT_TRUE(absl::IsInvalidArgument((*source)->Read("../secret", &scratch).status()));
  const absl::Status missing = (*source)->Read("b.jpg", &scratch).status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("b.jpg"));
}

TEST(SharedZipTest, RealArchivesOpen) {
  const auto shared = testing::SharedData();
  if (!shared.has_value()) GTEST_SKIP() << "no ../shared";
  const auto source = ZipImageSource::Open(*shared / "data/coco_cc/images/val.zip");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->size(), 40U);
  EXPECT_TRUE((*source)->Contains("000000005001.jpg"));
}

}  // namespace
}  // namespace muster::data
