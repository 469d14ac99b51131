#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct zip;

namespace muster::checkpoint {

// InvalidArgument: "<name> is no readable checkpoint: <what>".
absl::Status BadCheckpoint(absl::string_view name, absl::string_view what);

// The records of PyTorch's zip container: stored members of one folder, which may be called
// anything. Checksums are verified. Errors name the file and the record.
class ZipRecords {
 public:
  // `bytes` must live as long as the result; `name` stands for the file.
  static absl::StatusOr<ZipRecords> Open(absl::string_view bytes, const std::string& name);
  // Reads the directory alone.
  static absl::StatusOr<ZipRecords> OpenFile(const std::filesystem::path& path);

  bool Has(const std::string& record) const;
  // In bytes; not more than the file has.
  absl::StatusOr<uint64_t> SizeOf(const std::string& record) const;
  // `size` must be SizeOf(record).
  absl::Status Read(const std::string& record, void* out, uint64_t size) const;

 private:
  struct Close {
    void operator()(zip* archive) const;
  };
  using Archive = std::unique_ptr<zip, Close>;

  ZipRecords(Archive archive, uint64_t file_size, std::string name);
  absl::Status FindFolder();

  Archive archive_;
  uint64_t file_size_;
  std::string name_;
  std::string folder_;
};

}  // namespace muster::checkpoint
