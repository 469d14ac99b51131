#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "tests/fuzz/fuzz_target.h"

namespace muster::fuzz {

void Require(bool kept, const char* promise) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

MemoryFile::MemoryFile() : file_(memfd_create("fuzz", MFD_CLOEXEC)) {
  Require(file_ >= 0, "memfd_create");
  path_ = "/proc/self/fd/" + std::to_string(file_);
}

MemoryFile::~MemoryFile() { close(file_); }

void MemoryFile::Write(absl::Span<const uint8_t> content) {
  Require(ftruncate(file_, static_cast<off_t>(content.size())) == 0, "ftruncate");
  const ssize_t written = pwrite(file_, content.data(), content.size(), 0);
  Require(written == static_cast<ssize_t>(content.size()), "pwrite");
}

namespace {

void WriteSeeds(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error) || !std::filesystem::is_empty(folder, error)) {
    return;
  }
  int number = 0;
  for (const std::string& seed : Seeds()) {
    std::ofstream file(folder / ("seed_" + std::to_string(number++)), std::ios::binary);
    file << seed;
  }
}

}  // namespace
}  // namespace muster::fuzz

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::string argument = (*argv)[i];
    if (argument.empty() || argument[0] == '-') continue;
    muster::fuzz::WriteSeeds(argument);
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  muster::fuzz::FuzzOne(absl::MakeConstSpan(data, size));
  return 0;
}
