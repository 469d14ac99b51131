#include "cli/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "common/security/secret_file.h"
#include "tests/support/certificate_authority.h"
#include "tests/support/shared_data.h"

namespace muster::cli {
namespace {

class CredentialsTest : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
  testing::CertificateAuthority authority_{folder_.path() / "ca"};
};

TEST_F(CredentialsTest, PlaintextStaysOnThisMachine) {
  CredentialOptions options;
  EXPECT_FALSE(LoadCredentials("10.0.0.4:7070", options).ok());
  options.token = "muster-12";
  EXPECT_EQ(LoadCredentials("127.0.0.1:7070", options).value(), nullptr);
  EXPECT_EQ(LoadCredentials("127.0.0.1:7070,[::1]:7070", options).value(), nullptr);
  EXPECT_FALSE(LoadCredentials("127.0.0.1:7070,10.0.0.4:7070", options).ok());
  EXPECT_EQ(LoadCredentials("unix:/run/muster.sock", options).value(), nullptr);
  const auto refused = LoadCredentials("10.0.0.4:7070", options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr("--tls-ca"));
  EXPECT_THAT(std::string(refused.status().message()),
              ::testing::Not(::testing::HasSubstr("muster-12")));
  options.tls.ca = authority_.ca();
  EXPECT_NE(LoadCredentials("10.0.0.4:7070", options).value(), nullptr);
}

TEST_F(CredentialsTest, TokenFileNeedNotExistButMustBePrivate) {
  CredentialOptions options;
  options.tls.ca = authority_.ca();
  options.token_file = folder_.path() / "token";
  EXPECT_TRUE(LoadCredentials("10.0.0.4:7070", options).ok());
  ASSERT_TRUE(security::WriteSecretFile(options.token_file, "muster-12").ok());
  EXPECT_TRUE(LoadCredentials("10.0.0.4:7070", options).ok());
  ASSERT_EQ(chmod(options.token_file.c_str(), 0644), 0);
  EXPECT_EQ(LoadCredentials("10.0.0.4:7070", options).status().code(),
            absl::StatusCode::kPermissionDenied);
  // Not looked at when a token is given.
  options.token = "muster-34";
  EXPECT_TRUE(LoadCredentials("10.0.0.4:7070", options).ok());
}

TEST_F(CredentialsTest, TokenFileLiesInTheConfigFolder) {
  setenv("XDG_CONFIG_HOME", "/somewhere", 1);
  EXPECT_EQ(DefaultTokenFile(), "/somewhere/muster/token");
  unsetenv("XDG_CONFIG_HOME");
  setenv("HOME", "/people/me", 1);
  EXPECT_EQ(DefaultTokenFile(), "/people/me/.config/muster/token");
  unsetenv("HOME");
  EXPECT_EQ(DefaultTokenFile(), "");
}

}  // namespace
}  // namespace muster::cli
