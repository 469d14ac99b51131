#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "worker/data/image_source.h"

namespace muster::data {

// Images of a .zip file, mapped into memory once. Stored members are handed out without a copy,
// deflated ones are unpacked; the CRC of each is checked. Formats: the zip and zip64 directory of
// PKWARE's APPNOTE 6.3, one disk, not encrypted. The members are looked up as "name" and as
// "<stem of the zip>/name" (train2017.zip holds train2017/000000000009.jpg).
//
// An archive whose directory lies (members outside the file, over each other, twice the same name)
// is refused by Open; what only a member's own header shows is refused by Read. The file must not
// shrink while it is open.
class ZipImageSource : public ImageSource {
 public:
  static absl::StatusOr<std::unique_ptr<ZipImageSource>> Open(const std::filesystem::path& path);
  ~ZipImageSource() override;
  ZipImageSource(const ZipImageSource&) = delete;
  ZipImageSource& operator=(const ZipImageSource&) = delete;

  absl::StatusOr<absl::Span<const uint8_t>> Read(absl::string_view member,
                                                 std::vector<uint8_t>* scratch) const override;
  bool Contains(absl::string_view member) const override;
  std::string name() const override { return path_.string(); }

  // Members, folders not counted.
  size_t size() const { return members_.size(); }

 private:
  struct Member {
    uint64_t header_offset = 0;
    uint64_t limit = 0;  // where the next member, or the directory, begins
    uint64_t packed_size = 0;
    uint64_t size = 0;
    uint32_t crc = 0;
    uint16_t method = 0;
    uint16_t flags = 0;
  };

  ZipImageSource(std::filesystem::path path, absl::Span<const uint8_t> file);
  absl::Status ReadDirectory();
  const Member* Find(absl::string_view member, absl::string_view* found_name) const;

  const std::filesystem::path path_;
  const std::string stem_;
  const absl::Span<const uint8_t> file_;                    // the mapping
  absl::flat_hash_map<absl::string_view, Member> members_;  // names lie in the mapping
};

}  // namespace muster::data
