#include "worker/daemon/scheduled_events.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/protobuf/util/time_util.h"

#include "nlohmann/json.hpp"

namespace muster::worker {
namespace {

using nlohmann::json;

constexpr size_t kMostEvents = 100;
constexpr size_t kLongestId = 128;
constexpr size_t kLongestWord = 32;
constexpr size_t kLongestDescription = 300;
constexpr int kNotKnown = -1;

// "" where there is no such string.
std::string Text(const json& object, const char* name) {
  const auto field = object.find(name);
  return field != object.end() && field->is_string() ? field->get<std::string>() : "";
}

bool IsWord(const std::string& text, size_t longest) {
  return !text.empty() && text.size() <= longest &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
}

// For terminals and pages: printable ASCII, and not too much of it.
std::string Plain(std::string text) {
  text.resize(std::min(text.size(), kLongestDescription));
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = ' ';
  }
  return text;
}

bool Names(const json& event, absl::string_view vm) {
  const auto resources = event.find("Resources");
  if (resources == event.end() || !resources->is_array()) return false;
  return std::any_of(resources->begin(), resources->end(), [&](const json& resource) {
    return resource.is_string() &&
           absl::EqualsIgnoreCase(resource.get_ref<const std::string&>(), vm);
  });
}

// "Mon, 19 Sep 2016 18:29:47 GMT"
bool ParseDate(const std::string& text, absl::Time* time) {
  std::string ignored;
  // Longer than any date; also keeps out "infinite-future", which is a date to absl.
  if (text.size() > 40 || !absl::EndsWith(text, " GMT")) return false;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, time, &ignored)) return false;
  return *time > absl::UnixEpoch() && *time < absl::FromUnixSeconds(int64_t{1} << 33);
}

int32_t Seconds(const json& event) {
  const auto field = event.find("DurationInSeconds");
  if (field == event.end() || !field->is_number_integer()) return kNotKnown;
  // Of unsigned numbers above int64's range get() gives a negative one.
  const auto seconds = field->get<int64_t>();
  return static_cast<int32_t>(std::clamp<int64_t>(seconds, kNotKnown, 365 * 24 * 3600));
}

}  // namespace

absl::StatusOr<std::vector<v1::MaintenanceEvent>> ParseScheduledEvents(absl::string_view document,
                                                                       absl::string_view vm) {
  if (document.size() > kMostScheduledEventsBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the list of scheduled events is longer than ",
                                                   kMostScheduledEventsBytes, " bytes"));
  }
  const json root = json::parse(document.begin(), document.end(), /*cb=*/nullptr,
                                /*allow_exceptions=*/false);
  const auto list = root.is_object() ? root.find("Events") : root.end();
  if (!root.is_object() || list == root.end() || !list->is_array()) {
    return absl::InvalidArgumentError("not a list of scheduled events");
  }
  std::vector<v1::MaintenanceEvent> events;
  for (const json& entry : *list) {
    if (events.size() == kMostEvents) break;
    if (!entry.is_object() || !Names(entry, vm)) continue;
    v1::MaintenanceEvent event;
    event.set_id(Text(entry, "EventId"));
    event.set_type(Text(entry, "EventType"));
    event.set_status(Text(entry, "EventStatus"));
    if (!IsWord(event.id(), kLongestId) || !IsWord(event.type(), kLongestWord)) continue;
    if (!IsWord(event.status(), kLongestWord)) event.set_status("Scheduled");
    absl::Time not_before;
    if (ParseDate(Text(entry, "NotBefore"), &not_before)) {
      *event.mutable_not_before() =
          google::protobuf::util::TimeUtil::SecondsToTimestamp(absl::ToUnixSeconds(not_before));
    }
    event.set_duration_seconds(Seconds(entry));
    event.set_description(Plain(Text(entry, "Description")));
    events.push_back(std::move(event));
  }
  return events;
}

}  // namespace muster::worker
