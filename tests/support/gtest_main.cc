#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

// Exit code 77 (CTest's "skipped") only when every test that ran was skipped and none failed. With
// MUSTER_FORBID_SKIPS=1 (CI, where the data sets and tools are promised) a skip is a failure.
int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  const int result = RUN_ALL_TESTS();
  const testing::UnitTest& unit = *testing::UnitTest::GetInstance();
  const int skipped = unit.skipped_test_count();
  const char* forbid = std::getenv("MUSTER_FORBID_SKIPS");
  if (skipped > 0 && forbid != nullptr && forbid[0] == '1') {
    std::fprintf(stderr, "%d tests skipped, which MUSTER_FORBID_SKIPS=1 forbids\n", skipped);
    return 1;
  }
  if (result == 0 && skipped > 0 && unit.successful_test_count() == 0) return 77;
  return result;
}
