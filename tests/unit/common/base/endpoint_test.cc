#include "common/base/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muster::base {
namespace {

using ::testing::HasSubstr;

TEST(EndpointTest, Parses) {
  for (const auto& [text, printed, loopback] :
       std::vector<std::tuple<std::string, std::string, bool>>{
           {"127.0.0.1:7070", "127.0.0.1:7070", true},
           {"localhost:0", "localhost:0", true},
           {"[::1]:80", "[::1]:80", true},
           {":9090", "0.0.0.0:9090", false},
           {"10.0.0.4:65535", "10.0.0.4:65535", false}}) {
    const auto endpoint = ParseEndpoint(text);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    EXPECT_EQ(endpoint->ToString(), printed);
    EXPECT_EQ(endpoint->IsLoopback(), loopback) << text;
  }
}

TEST(EndpointTest, RefusesOthers) {
  for (const char* text :
       {"", "host", "host:", "host:x", "host:-1", "host:65536", "::1:80", "[::1:80"}) {
    const auto endpoint = ParseEndpoint(text);
    EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr(text));
  }
}

TEST(EndpointTest, FindsWhatIsNotOnThisMachine) {
  EXPECT_EQ(FirstBeyondLoopback("127.0.0.1:7070,[::1]:7070,unix:/run/muster.sock"), "");
  EXPECT_EQ(FirstBeyondLoopback("127.0.0.1:7070,10.0.0.4:7070,10.0.0.5:7070"), "10.0.0.4:7070");
  EXPECT_EQ(FirstBeyondLoopback("0.0.0.0:0"), "0.0.0.0:0");
}

TEST(EndpointTest, ListenErrorSaysWhy) {
  EXPECT_THAT(std::string(ListenError({"203.0.113.7", 1}).message()),
              HasSubstr("cannot listen on 203.0.113.7:1: Cannot assign requested address"));
}

}  // namespace
}  // namespace muster::base
