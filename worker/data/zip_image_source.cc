#include "worker/data/zip_image_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::data {
namespace {

// Record layouts: APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3.
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kDirectorySignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kZip64EndSignature = 0x06064b50;
constexpr uint32_t kZip64LocatorSignature = 0x07064b50;
constexpr uint64_t kLocalSize = 30;
constexpr uint64_t kDirectorySize = 46;
constexpr uint64_t kEndSize = 22;
constexpr uint64_t kZip64EndSize = 56;
constexpr uint64_t kZip64LocatorSize = 20;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint16_t kZip64ExtraId = 1;
constexpr uint16_t kStored = 0;
constexpr uint16_t kDeflated = 8;
constexpr uint16_t kEncryptedFlag = 1;
constexpr uint16_t kSizesFollowFlag = 8;
// Deflate makes at best 1032 bytes of one.
constexpr uint64_t kMaxDeflateRatio = 1032;
// An image file of more is not one; bounds what a deflated member may claim to unpack to.
constexpr uint64_t kMaxMemberBytes = uint64_t{1} << 30;

uint16_t U16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
uint32_t U32(const uint8_t* p) { return U16(p) | static_cast<uint32_t>(U16(p + 2)) << 16; }
uint64_t U64(const uint8_t* p) { return U32(p) | static_cast<uint64_t>(U32(p + 4)) << 32; }

// Whether [offset, offset + length) lies in [0, size).
bool Inside(uint64_t offset, uint64_t length, uint64_t size) {
  return offset <= size && length <= size - offset;
}

// Where the directory is.
struct Directory {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t entries = 0;
};

absl::StatusOr<Directory> FindDirectory(absl::Span<const uint8_t> file) {
  const uint64_t size = file.size();
  if (size < kEndSize) return absl::DataLossError("not a zip file, or truncated");
  const uint64_t lowest = size - kEndSize - std::min(size - kEndSize, kMaxComment);
  uint64_t end = size - kEndSize;
  while (true) {
    const uint8_t* p = &file[end];
    if (U32(p) == kEndSignature && end + kEndSize + U16(p + 20) == size) break;
    if (end == lowest) return absl::DataLossError("not a zip file, or truncated");
    --end;
  }
  const uint8_t* p = &file[end];
  Directory found = {.offset = U32(p + 16), .size = U32(p + 12), .entries = U16(p + 10)};
  bool one_disk = U16(p + 4) == 0 && U16(p + 6) == 0 && U16(p + 8) == U16(p + 10);
  uint64_t directory_end = end;
  if (end >= kZip64LocatorSize && U32(p - kZip64LocatorSize) == kZip64LocatorSignature) {
    const uint64_t end64 = U64(p - kZip64LocatorSize + 8);
    if (!Inside(end64, kZip64EndSize, end) || U32(&file[end64]) != kZip64EndSignature) {
      return absl::DataLossError("the zip64 end record is damaged");
    }
    const uint8_t* q = &file[end64];
    one_disk = U32(q + 16) == 0 && U32(q + 20) == 0 && U64(q + 24) == U64(q + 32);
    found = {.offset = U64(q + 48), .size = U64(q + 40), .entries = U64(q + 32)};
    directory_end = end64;
  }
  if (!one_disk) return absl::InvalidArgumentError("archives of several disks are not supported");
  if (!Inside(found.offset, found.size, directory_end) ||
      found.entries > found.size / kDirectorySize) {
    return absl::DataLossError("truncated, or its directory is damaged");
  }
  if (found.offset + found.size != directory_end) {
    return absl::DataLossError("bytes before the archive or behind its directory");
  }
  return found;
}

// Replaces the values of 0xffffffff by those of the zip64 extra field.
bool ApplyZip64(absl::Span<const uint8_t> extra, uint64_t* size, uint64_t* packed_size,
                uint64_t* offset) {
  constexpr uint64_t kElsewhere = 0xffffffff;
  if (*size != kElsewhere && *packed_size != kElsewhere && *offset != kElsewhere) return true;
  while (extra.size() >= 4) {
    const uint16_t id = U16(&extra[0]);
    const uint64_t length = U16(&extra[2]);
    extra.remove_prefix(4);
    if (length > extra.size()) return false;
    if (id == kZip64ExtraId) {
      absl::Span<const uint8_t> values = extra.first(length);
      for (uint64_t* value : {size, packed_size, offset}) {
        if (*value != kElsewhere) continue;
        if (values.size() < 8) return false;
        *value = U64(&values[0]);
        values.remove_prefix(8);
      }
      return true;
    }
    extra.remove_prefix(length);
  }
  return false;
}

// Unpacks a raw deflate stream of exactly scratch->size() bytes.
bool Inflate(absl::Span<const uint8_t> packed, std::vector<uint8_t>* scratch) {
  z_stream stream = {};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return false;
  const absl::Cleanup end = [&stream] { inflateEnd(&stream); };
  stream.next_in = const_cast<uint8_t*>(packed.data());
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = scratch->data();
  stream.avail_out = static_cast<uInt>(scratch->size());
  return inflate(&stream, Z_FINISH) == Z_STREAM_END && stream.avail_out == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ZipImageSource>> ZipImageSource::Open(
    const std::filesystem::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return base::ErrnoStatus(errno, "cannot open zip file", path);
  const absl::Cleanup close_file = [file] { close(file); };
  struct stat info = {};
  if (fstat(file, &info) != 0) return base::ErrnoStatus(errno, "cannot read zip file", path);
  if (!S_ISREG(info.st_mode) || info.st_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a zip file"));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return base::ErrnoStatus(errno, "cannot map zip file", path);
  std::unique_ptr<ZipImageSource> source(
      new ZipImageSource(path, absl::MakeConstSpan(static_cast<const uint8_t*>(memory), size)));
  if (absl::Status status = source->ReadDirectory(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path.string(), ": ", status.message()));
  }
  return source;
}

ZipImageSource::ZipImageSource(std::filesystem::path path, absl::Span<const uint8_t> file)
    : path_(std::move(path)), stem_(path_.stem().string()), file_(file) {}

ZipImageSource::~ZipImageSource() { munmap(const_cast<uint8_t*>(file_.data()), file_.size()); }

absl::Status ZipImageSource::ReadDirectory() {
  MUSTER_ASSIGN_OR_RETURN(const Directory directory, FindDirectory(file_));
  members_.reserve(directory.entries);
  // Of all entries, folders included, to find overlaps.
  struct Extent {
    uint64_t begin;
    uint64_t end;
    absl::string_view name;
  };
  std::vector<Extent> extents;
  extents.reserve(directory.entries);
  absl::Span<const uint8_t> rest = file_.subspan(directory.offset, directory.size);
  for (uint64_t i = 0; i < directory.entries; ++i) {
    if (rest.size() < kDirectorySize || U32(&rest[0]) != kDirectorySignature) {
      return absl::DataLossError(absl::StrCat("directory entry ", i, " is damaged"));
    }
    const uint8_t* p = rest.data();
    const uint64_t name_size = U16(p + 28);
    const uint64_t extra_size = U16(p + 30);
    const uint64_t entry_size = kDirectorySize + name_size + extra_size + U16(p + 32);
    if (entry_size > rest.size()) {
      return absl::DataLossError(absl::StrCat("directory entry ", i, " is damaged"));
    }
    const absl::string_view name(reinterpret_cast<const char*>(p + kDirectorySize), name_size);
    Member member = {.header_offset = U32(p + 42),
                     .packed_size = U32(p + 20),
                     .size = U32(p + 24),
                     .crc = U32(p + 16),
                     .method = U16(p + 10),
                     .flags = U16(p + 8)};
    if (!ApplyZip64(rest.subspan(kDirectorySize + name_size, extra_size), &member.size,
                    &member.packed_size, &member.header_offset)) {
      return absl::DataLossError(absl::StrCat("member ", name, ": zip64 sizes are missing"));
    }
    const uint64_t header = kLocalSize + name_size;
    if (!Inside(member.header_offset, header, directory.offset) ||
        !Inside(member.header_offset + header, member.packed_size, directory.offset)) {
      return absl::DataLossError(
          absl::StrCat("member ", name, " lies outside the file: truncated or damaged"));
    }
    extents.push_back(
        {member.header_offset, member.header_offset + header + member.packed_size, name});
    if (!name.empty() && name.back() != '/' && !members_.emplace(name, member).second) {
      return absl::DataLossError(absl::StrCat("member ", name, " is there twice"));
    }
    rest.remove_prefix(entry_size);
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (size_t i = 0; i < extents.size(); ++i) {
    const uint64_t limit = i + 1 < extents.size() ? extents[i + 1].begin : directory.offset;
    if (extents[i].end > limit) {
      return absl::DataLossError(
          absl::StrCat("members ", extents[i].name, " and ", extents[i + 1].name, " overlap"));
    }
    if (const auto member = members_.find(extents[i].name); member != members_.end()) {
      member->second.limit = limit;
    }
  }
  return absl::OkStatus();
}

const ZipImageSource::Member* ZipImageSource::Find(absl::string_view member,
                                                   absl::string_view* found_name) const {
  auto found = members_.find(member);
  if (found == members_.end()) found = members_.find(absl::StrCat(stem_, "/", member));
  if (found == members_.end()) return nullptr;
  *found_name = found->first;
  return &found->second;
}

bool ZipImageSource::Contains(absl::string_view member) const {
  absl::string_view name;
  return Find(member, &name) != nullptr;
}

absl::StatusOr<absl::Span<const uint8_t>> ZipImageSource::Read(
    absl::string_view member, std::vector<uint8_t>* scratch) const {
  absl::string_view name;
  const Member* found = Find(member, &name);
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(path_.string(), ": no member ", member, " and no ", stem_, "/", member));
  }
  const auto damaged = [&](absl::string_view problem) {
    return absl::DataLossError(absl::StrCat(path_.string(), ": member ", name, ": ", problem));
  };
  if ((found->flags & kEncryptedFlag) != 0) return damaged("encrypted");
  if (found->method != kStored && found->method != kDeflated) {
    return damaged(absl::StrCat("compression method ", found->method,
                                " is not supported; store the images (zip -0)"));
  }
  const uint8_t* header = &file_[found->header_offset];
  const uint64_t name_size = U16(header + 26);
  const uint64_t data_offset = found->header_offset + kLocalSize + name_size + U16(header + 28);
  if (U32(header) != kLocalSignature || name_size != name.size() ||
      absl::string_view(reinterpret_cast<const char*>(header + kLocalSize), name_size) != name ||
      U16(header + 8) != found->method) {
    return damaged("its header does not agree with the directory");
  }
  if (!Inside(data_offset, found->packed_size, found->limit)) {
    return damaged("its data overlaps what follows");
  }
  if ((U16(header + 6) & kSizesFollowFlag) == 0) {
    uint64_t packed_size = U32(header + 18);
    uint64_t size = U32(header + 22);
    uint64_t offset = 0;
    if (!ApplyZip64(file_.subspan(data_offset - U16(header + 28), U16(header + 28)), &size,
                    &packed_size, &offset) ||
        packed_size != found->packed_size || size != found->size ||
        U32(header + 14) != found->crc) {
      return damaged("the sizes in its header do not agree with the directory");
    }
  }
  if (found->size > kMaxMemberBytes || found->packed_size > kMaxMemberBytes) {
    return damaged("too large for an image");
  }
  absl::Span<const uint8_t> bytes = file_.subspan(data_offset, found->packed_size);
  if (found->method == kStored) {
    if (found->size != found->packed_size) return damaged("its sizes do not agree");
  } else {
    if (found->size > kMaxDeflateRatio * found->packed_size) {
      return damaged("claims to unpack to more than its compressed data can hold");
    }
    scratch->resize(found->size);
    if (!Inflate(bytes, scratch)) return damaged("its compressed data is damaged");
    bytes = absl::MakeConstSpan(*scratch);
  }
  if (crc32_z(0, bytes.data(), bytes.size()) != found->crc) {
    return damaged("damaged: its checksum does not agree");
  }
  return bytes;
}

}  // namespace muster::data
