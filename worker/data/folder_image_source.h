#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "worker/data/image_source.h"

namespace muster::data {

// Image files below a folder. A member that would lead out of it (an absolute path, "..") is
// refused.
class FolderImageSource : public ImageSource {
 public:
  explicit FolderImageSource(std::filesystem::path folder);

  absl::StatusOr<absl::Span<const uint8_t>> Read(absl::string_view member,
                                                 std::vector<uint8_t>* scratch) const override;
  bool Contains(absl::string_view member) const override;
  std::string name() const override { return folder_.string(); }

 private:
  const std::filesystem::path folder_;
};

}  // namespace muster::data
