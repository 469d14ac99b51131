#include "coordinator/service/page_token.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace muster::coordinator {

std::string MakePageToken(absl::string_view kind, absl::string_view position) {
  return absl::WebSafeBase64Escape(absl::StrCat(kind, ":", position));
}

absl::StatusOr<std::string> ReadPageToken(absl::string_view kind, absl::string_view token) {
  if (token.empty()) return std::string();
  std::string decoded;
  absl::string_view position;
  if (absl::WebSafeBase64Unescape(token, &decoded)) {
    position = decoded;
    if (absl::ConsumePrefix(&position, absl::StrCat(kind, ":")) && !position.empty()) {
      return std::string(position);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("page_token '", token, "' is not one that this list has returned"));
}

absl::StatusOr<int> PageSize(int requested) {
  if (requested < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size is ", requested, "; use 0 (the default) to 1000"));
  }
  return requested == 0 ? 50 : std::min(requested, 1000);
}

}  // namespace muster::coordinator
