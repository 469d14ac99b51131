#include "worker/checkpoint/zip_records.h"

#include <zip.h>

#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/status_macros.h"

namespace muster::checkpoint {
namespace {

constexpr absl::string_view kPickle = "data.pkl";

}  // namespace

absl::Status BadCheckpoint(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is no readable checkpoint: ", what));
}

void ZipRecords::Close::operator()(zip* archive) const { zip_discard(archive); }

ZipRecords::ZipRecords(Archive archive, uint64_t file_size, std::string name)
    : archive_(std::move(archive)), file_size_(file_size), name_(std::move(name)) {}

absl::StatusOr<ZipRecords> ZipRecords::Open(absl::string_view bytes, const std::string& name) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  zip_t* archive = source == nullptr ? nullptr : zip_open_from_source(source, ZIP_RDONLY, &error);
  if (archive == nullptr) {
    const std::string reason = zip_error_strerror(&error);
    if (source != nullptr) zip_source_free(source);
    zip_error_fini(&error);
    return BadCheckpoint(name, reason);
  }
  zip_error_fini(&error);
  ZipRecords records(Archive(archive), bytes.size(), name);
  MUSTER_RETURN_IF_ERROR(records.FindFolder());
  return records;
}

absl::StatusOr<ZipRecords> ZipRecords::OpenFile(const std::filesystem::path& path) {
  std::error_code missing;
  const uintmax_t size = std::filesystem::file_size(path, missing);
  int error = 0;
  Archive archive(missing ? nullptr : zip_open(path.c_str(), ZIP_RDONLY, &error));
  if (archive == nullptr) return BadCheckpoint(path.string(), "it is no zip container");
  ZipRecords records(std::move(archive), size, path.string());
  MUSTER_RETURN_IF_ERROR(records.FindFolder());
  return records;
}

absl::Status ZipRecords::FindFolder() {
  const zip_int64_t entries = zip_get_num_entries(archive_.get(), 0);
  for (zip_int64_t i = 0; i < entries; ++i) {
    const char* entry = zip_get_name(archive_.get(), static_cast<zip_uint64_t>(i), 0);
    if (entry != nullptr && absl::EndsWith(entry, absl::StrCat("/", kPickle))) {
      folder_ = std::string(absl::StripSuffix(entry, kPickle));
      return absl::OkStatus();
    }
  }
  return BadCheckpoint(name_, "it has no data.pkl");
}

bool ZipRecords::Has(const std::string& record) const {
  return zip_name_locate(archive_.get(), (folder_ + record).c_str(), 0) >= 0;
}

absl::StatusOr<uint64_t> ZipRecords::SizeOf(const std::string& record) const {
  zip_stat_t stat;
  if (zip_stat(archive_.get(), (folder_ + record).c_str(), 0, &stat) != 0) {
    return BadCheckpoint(name_, absl::StrCat("record ", record, " is missing"));
  }
  if ((stat.valid & ZIP_STAT_COMP_METHOD) == 0 || stat.comp_method != ZIP_CM_STORE) {
    return BadCheckpoint(name_, absl::StrCat("record ", record, " is compressed"));
  }
  // Stored: a size beyond the file's is a lie, and must not be allocated.
  if ((stat.valid & ZIP_STAT_SIZE) == 0 || stat.size > file_size_) {
    return BadCheckpoint(name_, absl::StrCat("record ", record, " has no end"));
  }
  return stat.size;
}

absl::Status ZipRecords::Read(const std::string& record, void* out, uint64_t size) const {
  zip_file_t* file = zip_fopen(archive_.get(), (folder_ + record).c_str(), 0);
  if (file == nullptr) return BadCheckpoint(name_, zip_strerror(archive_.get()));
  char* bytes = static_cast<char*>(out);
  uint64_t done = 0;
  std::string error;
  // One read beyond the last byte: there libzip compares the checksum.
  while (error.empty()) {
    char end = 0;
    const zip_int64_t got =
        done < size ? zip_fread(file, bytes + done, size - done) : zip_fread(file, &end, 1);
    if (got < 0) error = absl::StrCat("record ", record, ": ", zip_file_strerror(file));
    if (got == 0 && done < size) error = absl::StrCat("record ", record, " ends too early");
    if (got > 0 && done >= size) error = absl::StrCat("record ", record, " is too long");
    if (got == 0 && done == size) break;
    if (got > 0) done += static_cast<uint64_t>(got);
  }
  zip_fclose(file);
  return error.empty() ? absl::OkStatus() : BadCheckpoint(name_, error);
}

}  // namespace muster::checkpoint
