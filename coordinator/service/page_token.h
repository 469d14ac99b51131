#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace muster::coordinator {

// Page tokens are opaque to callers: `kind` keeps one list's token from being used for another.
std::string MakePageToken(absl::string_view kind, absl::string_view position);

// The position; empty for an empty token. InvalidArgument for anything else that was not made by
// MakePageToken with this kind.
absl::StatusOr<std::string> ReadPageToken(absl::string_view kind, absl::string_view token);

// What a request's page_size means: 0 is 50, more than 1000 is 1000. InvalidArgument when negative.
absl::StatusOr<int> PageSize(int requested);

}  // namespace muster::coordinator
