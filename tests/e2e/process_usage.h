#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace muster::testing {

// What a process holds, by /proc.
struct ProcessUsage {
  int descriptors = 0;
  int64_t resident_bytes = 0;
};

inline ProcessUsage UsageOf(pid_t pid) {
  ProcessUsage usage;
  const std::filesystem::path folder = absl::StrCat("/proc/", pid);
  std::error_code ignored;
  const std::filesystem::directory_iterator descriptors(folder / "fd", ignored);
  usage.descriptors = static_cast<int>(std::distance(begin(descriptors), end(descriptors)));
  std::ifstream status(folder / "status");
  for (std::string line; std::getline(status, line);) {
    constexpr char kResident[] = "VmRSS:";
    if (line.rfind(kResident, 0) != 0) continue;
    usage.resident_bytes = std::strtoll(line.c_str() + sizeof(kResident) - 1, nullptr, 10) * 1024;
  }
  return usage;
}

}  // namespace muster::testing
