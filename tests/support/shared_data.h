#pragma once

#include <filesystem>
#include <optional>

namespace muster::testing {

// The folder with the real data sets, evaluation cases and oracle files: $MUSTER_SHARED, or
// ../shared beside the source tree. Empty where it is absent: then skip the test.
std::optional<std::filesystem::path> SharedData();

// build/<preset>/bin and the source tree ($MUSTER_BIN, $MUSTER_SOURCE, which CTest sets).
std::filesystem::path ProgramFolder();
std::filesystem::path SourceFolder();

// A folder of this test's own, empty, removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace muster::testing
