#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/types/span.h"

// What a fuzzer's file defines; fuzz_main.cc does the rest. Each fuzzer is one libFuzzer program:
//   fuzz.zip CORPUS_FOLDER -max_total_time=600
namespace muster::fuzz {

// Valid inputs to start from. They are written into the corpus folder, the first argument, where it
// is empty.
std::vector<std::string> Seeds();

// Must return for any input. What must not happen ends the process: a crash, a sanitizer's report,
// or Require.
void FuzzOne(absl::Span<const uint8_t> input);

// Ends the process, so that libFuzzer keeps the input, when a promise is broken.
void Require(bool kept, const char* promise);

// A file in memory whose content is replaced with each input, for readers that take a path.
class MemoryFile {
 public:
  MemoryFile();
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void Write(absl::Span<const uint8_t> content);
  const std::filesystem::path& path() const { return path_; }

 private:
  int file_ = -1;
  std::filesystem::path path_;
};

}  // namespace muster::fuzz
