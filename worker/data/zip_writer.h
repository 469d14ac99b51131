#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace muster::data {

struct ZipMember {
  std::string name;
  std::string bytes;
};

enum class ZipCompression { kStored, kDeflated };

// Publishes the members as a zip file, whole or not at all. The same members give the same bytes:
// the time stamps are fixed. Images belong stored: they are compressed already, and ZipImageSource
// hands out stored members without a copy.
absl::Status WriteZip(const std::filesystem::path& path, const std::vector<ZipMember>& members,
                      ZipCompression compression);

}  // namespace muster::data
