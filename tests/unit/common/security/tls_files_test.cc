#include "common/security/tls_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/files.h"
#include "tests/support/certificate_authority.h"
#include "tests/support/shared_data.h"

namespace muster::security {
namespace {

using testing::CertificateAuthority;
using ::testing::HasSubstr;

class TlsFilesTest : public ::testing::Test {
 protected:
  static std::string Problem(const TlsFiles& files) {
    const absl::Status status = CheckTlsFiles(files);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }

  testing::TemporaryFolder folder_;
  CertificateAuthority authority_{folder_.path() / "ca"};
};

TEST_F(TlsFilesTest, AcceptsWhatFits) {
  TlsFiles files = authority_.Issue("node");
  EXPECT_EQ(Problem(files), "");
  files.ca.clear();
  EXPECT_EQ(Problem(files), "");
  EXPECT_EQ(Problem({"", "", authority_.ca()}), "");
  EXPECT_EQ(Problem({}), "");
}

TEST_F(TlsFilesTest, NamesTheFileThatIsWrong) {
  const TlsFiles good = authority_.Issue("node");
  const TlsFiles other = authority_.Issue("other");
  EXPECT_THAT(Problem({good.certificate, "", ""}), HasSubstr("together"));
  EXPECT_THAT(Problem({good.certificate, other.key, ""}), HasSubstr("other.key is not the key of"));
  EXPECT_THAT(Problem({good.certificate, folder_.path() / "none.key", ""}), HasSubstr("none.key"));
  EXPECT_THAT(Problem({good.key, good.key, ""}), HasSubstr("holds no certificate"));
  EXPECT_THAT(Problem({good.certificate, good.certificate, ""}), HasSubstr("holds no private key"));
  EXPECT_THAT(Problem({good.certificate, good.key, good.key}), HasSubstr("holds no certificate"));
  const std::filesystem::path cut = folder_.path() / "cut.pem";
  const std::string text = *base::ReadFile(good.certificate);
  ASSERT_TRUE(base::WriteFileAtomically(cut, text.substr(0, text.size() / 2)).ok());
  EXPECT_THAT(Problem({cut, good.key, ""}), HasSubstr("cut.pem holds no certificate"));
}

TEST_F(TlsFilesTest, LooksAtTheCalendar) {
  CertificateAuthority::Request request;
  request.name = "old";
  request.ends = -absl::Minutes(1);
  EXPECT_THAT(Problem(authority_.Issue(request)), HasSubstr("has expired"));
  request.name = "new";
  request.begins = absl::Hours(1);
  request.ends = absl::Hours(2);
  EXPECT_THAT(Problem(authority_.Issue(request)), HasSubstr("not valid yet"));
}

}  // namespace
}  // namespace muster::security
