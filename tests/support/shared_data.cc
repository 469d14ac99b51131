#include "tests/support/shared_data.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>

namespace muster::testing {

std::filesystem::path SourceFolder() {
  const char* folder = std::getenv("MUSTER_SOURCE");
  return folder != nullptr ? folder : std::filesystem::current_path();
}

std::filesystem::path ProgramFolder() {
  const char* folder = std::getenv("MUSTER_BIN");
  return folder != nullptr ? folder : SourceFolder() / "build/release/bin";
}

std::optional<std::filesystem::path> SharedData() {
  const char* set = std::getenv("MUSTER_SHARED");
  const std::filesystem::path folder =
      set != nullptr ? std::filesystem::path(set) : SourceFolder() / "../shared";
  if (!std::filesystem::exists(folder / "data")) return std::nullopt;
  return std::filesystem::weakly_canonical(folder);
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "muster-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace muster::testing
