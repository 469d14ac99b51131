#include "common/security/self_signed.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <string>

#include "absl/strings/escaping.h"

#include "common/base/files.h"
#include "common/security/digest.h"
#include "common/security/sha256_stream.h"
#include "tests/support/shared_data.h"

namespace muster::security {
namespace {

TEST(SelfSignedTest, IsValidForItsAddressAndSignsNothingElse) {
  const auto made = MakeSelfSigned("w1", "10.0.0.4");
  ASSERT_TRUE(made.ok()) << made.status();
  X509* certificate = made->certificate.get();
  EXPECT_EQ(X509_check_ip_asc(certificate, "10.0.0.4", 0), 1);
  EXPECT_EQ(X509_check_ip_asc(certificate, "10.0.0.5", 0), 0);
  EXPECT_EQ(X509_verify(certificate, made->key.get()), 1);
  EXPECT_EQ(X509_check_ca(certificate), 0);
  EXPECT_LT(X509_cmp_current_time(X509_get0_notBefore(certificate)), 0);
  time_t in_nine_years = time(nullptr) + 9L * 365 * 24 * 3600;
  EXPECT_GT(X509_cmp_time(X509_get0_notAfter(certificate), &in_nine_years), 0)
      << "a daemon that runs for long";
  const auto six = MakeSelfSigned("w1", "fd00::4");
  ASSERT_TRUE(six.ok()) << six.status();
  EXPECT_EQ(X509_check_ip_asc(six->certificate.get(), "fd00::4", 0), 1);
  EXPECT_FALSE(MakeSelfSigned("w1", "no address").ok());
}

TEST(SelfSignedTest, GoesThroughPemAndEachIsAnother) {
  const auto made = MakeSelfSigned("w1", "10.0.0.4");
  const auto read = ParseCertificate(made->pem);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(X509_cmp(read->get(), made->certificate.get()), 0);
  EXPECT_EQ(made->pem.find("PRIVATE"), std::string::npos);
  EXPECT_NE(X509_cmp(made->certificate.get(), MakeSelfSigned("w1", "10.0.0.4")->certificate.get()),
            0);
  EXPECT_TRUE(absl::IsInvalidArgument(ParseCertificate("").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseCertificate("-----BEGIN").status()));
}

TEST(Sha256StreamTest, EqualsTheWhole) {
  const std::string text(10'000'000, 'x');
  const std::string whole = absl::BytesToHexString(Sha256(text));
  Sha256Stream stream;
  stream.Update(absl::string_view(text).substr(0, 1));
  stream.Update(absl::string_view(text).substr(1));
  EXPECT_EQ(stream.Finish(), whole);

  const testing::TemporaryFolder folder;
  ASSERT_TRUE(base::WriteFileAtomically(folder.path() / "file", text).ok());
  const int fd = open((folder.path() / "file").c_str(), O_RDONLY | O_CLOEXEC);
  const auto digest = Sha256OfFile(fd, [] { return false; });
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, whole);
  int asked = 0;
  EXPECT_TRUE(absl::IsCancelled(Sha256OfFile(fd, [&] { return ++asked == 2; }).status()));
  close(fd);
}

}  // namespace
}  // namespace muster::security
