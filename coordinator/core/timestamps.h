#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
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

inline google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

inline absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// "0.5 s", "40 s", "15 min", "1 h 5 min": whole seconds from one second on, whole minutes from one
// hour on.
inline std::string InWords(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration + absl::Milliseconds(500));
  if (duration < absl::Seconds(1)) return absl::StrCat(absl::ToDoubleSeconds(duration), " s");
  if (seconds < 60) return absl::StrCat(seconds, " s");
  const int64_t minutes = seconds / 60;
  const int64_t rest = seconds < 3600 ? seconds % 60 : minutes % 60;
  return absl::StrCat(seconds < 3600 ? minutes : minutes / 60, seconds < 3600 ? " min" : " h",
                      rest == 0 ? "" : absl::StrCat(" ", rest, seconds < 3600 ? " s" : " min"));
}

}  // namespace muster::coordinator
