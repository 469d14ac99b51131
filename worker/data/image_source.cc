#include "worker/data/image_source.h"

#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "worker/data/folder_image_source.h"
#include "worker/data/zip_image_source.h"

namespace muster::data {

absl::StatusOr<std::unique_ptr<ImageSource>> OpenImageSource(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) return std::make_unique<FolderImageSource>(path);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(absl::StrCat(path.string(), ": no such zip file or folder"));
  }
  MUSTER_ASSIGN_OR_RETURN(std::unique_ptr<ImageSource> zip, ZipImageSource::Open(path));
  return zip;
}

}  // namespace muster::data
