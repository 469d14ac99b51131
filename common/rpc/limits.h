#pragma once

#include "absl/time/time.h"

namespace muster::rpc {

// Largest message, both ways; logs are cut into pieces of kMaxLogChunkBytes.
inline constexpr int kMaxMessageBytes = 4 << 20;
inline constexpr int kMaxLogChunkBytes = 256 << 10;

// Of the headers of a call, and calls that run at a time on one connection.
inline constexpr int kMaxMetadataBytes = 16 << 10;
inline constexpr int kMaxCallsPerConnection = 1000;

// Deadline of a unary call whose caller has no reason for another.
inline constexpr absl::Duration kDefaultDeadline = absl::Seconds(10);

}  // namespace muster::rpc
