#pragma once

#include "absl/time/time.h"

namespace muster::rpc {

// Largest message, both ways; logs are cut into pieces of kMaxLogChunkBytes.
inline constexpr int kMaxMessageBytes = 4 << 20;
inline constexpr int kMaxLogChunkBytes = 256 << 10;

// Deadline of a unary call whose caller has no reason for another.
inline constexpr absl::Duration kDefaultDeadline = absl::Seconds(10);

}  // namespace muster::rpc
