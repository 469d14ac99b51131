#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/escaping.h"

#include "common/base/files.h"
#include "common/security/digest.h"
#include "common/security/secret_file.h"
#include "tests/support/shared_data.h"

namespace muster::security {
namespace {

using ::testing::HasSubstr;

TEST(DigestTest, IsSha256) {
  EXPECT_EQ(absl::BytesToHexString(Sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, ComparesWholeTexts) {
  EXPECT_TRUE(EqualInConstantTime("abc", "abc"));
  EXPECT_FALSE(EqualInConstantTime("abc", "abd"));
  EXPECT_FALSE(EqualInConstantTime("abc", "ab"));
  EXPECT_TRUE(EqualInConstantTime("", ""));
}

TEST(DigestTest, SecretsDiffer) {
  EXPECT_THAT(MakeSecret(), ::testing::MatchesRegex("muster-[0-9a-f]+"));
  EXPECT_EQ(MakeSecret().size(), 7u + 64u);
  EXPECT_NE(MakeSecret(), MakeSecret());
}

TEST(SecretFileTest, IsReadableByItsOwnerOnly) {
  const testing::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "token";
  EXPECT_EQ(ReadSecretFile(file).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteSecretFile(file, "muster-1").ok());
  struct stat info {};
  ASSERT_EQ(stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(*ReadSecretFile(file), "muster-1");
  ASSERT_TRUE(WriteSecretFile(file, "muster-2").ok()) << "it cannot be replaced";
  EXPECT_EQ(*ReadSecretFile(file), "muster-2");

  for (const mode_t mode : {0640, 0604, 0644, 0620}) {
    ASSERT_EQ(chmod(file.c_str(), mode), 0);
    const auto read = ReadSecretFile(file);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("chmod 600"));
    EXPECT_THAT(std::string(read.status().message()), ::testing::Not(HasSubstr("muster-2")));
  }
}

TEST(SecretFileTest, HoldsOneLine) {
  const testing::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "token";
  for (const char* text : {"", "\n", "a\nb\n"}) {
    ASSERT_TRUE(base::WriteFileAtomically(file, text).ok());
    ASSERT_EQ(chmod(file.c_str(), 0600), 0);
    EXPECT_EQ(ReadSecretFile(file).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace muster::security
