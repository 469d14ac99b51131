#include "common/base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/shared_data.h"

namespace muster::base {
namespace {

using ::testing::HasSubstr;

TEST(FilesTest, WritesAndReadsBack) {
  muster::testing::TemporaryFolder folder;
  const auto path = folder.path() / "a/b/file";
  ASSERT_TRUE(CreateFolders(path.parent_path()).ok());
  const std::string data("line\n\0binary", 12);
  ASSERT_TRUE(WriteFileAtomically(path, data).ok());
  ASSERT_TRUE(WriteFileAtomically(path, data + data).ok());
  const auto read = ReadFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, data + data);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".part"));
}

TEST(FilesTest, ErrorsNameThePath) {
  muster::testing::TemporaryFolder folder;
  const auto missing = folder.path() / "missing/file";
  const auto read = ReadFile(missing);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr(missing.string()));
  EXPECT_THAT(std::string(WriteFileAtomically(missing, "x").message()),
              HasSubstr(missing.string()));
}

TEST(FilesTest, PublishReplacesTheOldFile) {
  muster::testing::TemporaryFolder folder;
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "old", "old").ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "new", "new").ok());
  ASSERT_TRUE(PublishFile(folder.path() / "new", folder.path() / "old").ok());
  EXPECT_EQ(*ReadFile(folder.path() / "old"), "new");
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "new"));
}

}  // namespace
}  // namespace muster::base
