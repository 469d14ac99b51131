#include "worker/data/zip_writer.h"

#include <zip.h>

#include <cstdint>
#include <memory>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::data {
namespace {

// 2020-01-01 00:00 in MS-DOS form.
constexpr zip_uint16_t kDosDate = (2020 - 1980) << 9 | 1 << 5 | 1;

absl::Status AddMember(zip_t* archive, const ZipMember& member, ZipCompression compression) {
  zip_source_t* source =
      zip_source_buffer(archive, member.bytes.data(), member.bytes.size(), /*freep=*/0);
  if (source == nullptr) return absl::InternalError(zip_strerror(archive));
  const zip_int64_t index = zip_file_add(archive, member.name.c_str(), source, ZIP_FL_ENC_UTF_8);
  if (index < 0) {
    zip_source_free(source);
    return absl::InternalError(absl::StrCat(member.name, ": ", zip_strerror(archive)));
  }
  const auto position = static_cast<zip_uint64_t>(index);
  const zip_int32_t method = compression == ZipCompression::kStored ? ZIP_CM_STORE : ZIP_CM_DEFLATE;
  if (zip_set_file_compression(archive, position, method, 0) != 0 ||
      zip_file_set_dostime(archive, position, 0, kDosDate, 0) != 0) {
    return absl::InternalError(absl::StrCat(member.name, ": ", zip_strerror(archive)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteZip(const std::filesystem::path& path, const std::vector<ZipMember>& members,
                      ZipCompression compression) {
  const std::filesystem::path part = path.string() + ".part";
  int code = 0;
  zip_t* archive = zip_open(part.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code);
  if (archive == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string reason = zip_error_strerror(&error);
    zip_error_fini(&error);
    return absl::UnavailableError(absl::StrCat("cannot write ", path.string(), ": ", reason));
  }
  absl::Status status;
  for (const ZipMember& member : members) {
    status = AddMember(archive, member, compression);
    if (!status.ok()) break;
  }
  if (status.ok() && zip_close(archive) != 0) {
    status = absl::UnavailableError(zip_strerror(archive));
    zip_discard(archive);
  } else if (!status.ok()) {
    zip_discard(archive);
  }
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("cannot write ", path.string(), ": ", status.message()));
  }
  return base::PublishFile(part, path);
}

}  // namespace muster::data
