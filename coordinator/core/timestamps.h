#pragma once

#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace muster::coordinator {

inline google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  const timespec value = absl::ToTimespec(time);
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(value.tv_sec);
  timestamp.set_nanos(static_cast<int32_t>(value.tv_nsec));
  return timestamp;
}

inline absl::Time FromTimestamp(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixSeconds(timestamp.seconds()) + absl::Nanoseconds(timestamp.nanos());
}

}  // namespace muster::coordinator
