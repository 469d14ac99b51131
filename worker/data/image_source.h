#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace muster::data {

// Where image files come from, by the file_name of the annotations. All methods are thread-safe.
class ImageSource {
 public:
  virtual ~ImageSource() = default;

  // The member's bytes, unpacked. They lie in memory of the source (valid as long as it) or in
  // *scratch (valid until that changes), whichever is cheaper; `scratch` is reused from call to
  // call. Errors name the source and the member.
  virtual absl::StatusOr<absl::Span<const uint8_t>> Read(absl::string_view member,
                                                         std::vector<uint8_t>* scratch) const = 0;

  // Whether Read would find the member; costs no I/O on its bytes.
  virtual bool Contains(absl::string_view member) const = 0;

  // What error messages call the source: the path that it was opened with.
  virtual std::string name() const = 0;
};

// A ZipImageSource for a file, a FolderImageSource for a folder.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenImageSource(const std::filesystem::path& path);

}  // namespace muster::data
