#include "worker/daemon/scheduled_events_poller.h"

#include <httplib.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/endpoint.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/daemon/scheduled_events.h"

namespace muster::worker {
namespace {

constexpr char kEventsPath[] = "/metadata/scheduledevents?api-version=2020-07-01";
constexpr char kNamePath[] = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
constexpr char kMetadataService[] = "http://169.254.169.254";
// The same on all of Azure's machines and nowhere else.
constexpr char kAzureAssetTag[] = "7783-7084-3265-9085-8269-3286-77";
constexpr size_t kLongestName = 128;
constexpr absl::Duration kConnectTimeout = absl::Seconds(2);

bool Same(const std::vector<v1::MaintenanceEvent>& a, const std::vector<v1::MaintenanceEvent>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& one, const auto& other) {
    return one.SerializeAsString() == other.SerializeAsString();
  });
}

void SetTimeout(httplib::Client& client, absl::Duration timeout) {
  client.set_read_timeout(absl::ToChronoMicroseconds(timeout));
}

}  // namespace

ScheduledEventsPoller::ScheduledEventsPoller(Options options, Deps deps)
    : options_(std::move(options)),
      deps_(std::move(deps)),
      client_(std::make_unique<httplib::Client>(options_.url)) {
  client_->set_keep_alive(true);
  client_->set_connection_timeout(absl::ToChronoMicroseconds(kConnectTimeout));
  SetTimeout(*client_, options_.first_timeout);
  thread_ = std::thread([this] { Run(); });
}

ScheduledEventsPoller::~ScheduledEventsPoller() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  // Again and again: the call may only be about to begin.
  for (bool ended = false; !ended;) {
    client_->stop();
    absl::MutexLock lock(&mutex_);
    ended = mutex_.AwaitWithTimeout(absl::Condition(&ended_), absl::Milliseconds(20));
  }
  thread_.join();
}

absl::Status ScheduledEventsPoller::CheckUrl(const std::string& url) {
  absl::string_view rest = url;
  const bool http = absl::ConsumePrefix(&rest, "http://");
  const bool plain = !rest.empty() && rest.find_first_of("/?#@ ") == absl::string_view::npos;
  if (http && plain &&
      (rest.find(':') == absl::string_view::npos || base::ParseEndpoint(rest).ok())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", url, "' is not of the form http://HOST:PORT"));
}

void ScheduledEventsPoller::Approve(const std::string& event_id) {
  absl::MutexLock lock(&mutex_);
  to_approve_.insert(event_id);
}

void ScheduledEventsPoller::Run() {
  std::string said;
  do {
    absl::Status polled = LearnName();
    if (polled.ok()) polled = Poll();
    if (polled.ok()) SendApprovals();
    // Once for a run of failures that are the same.
    if (!polled.ok() && said != polled.message()) {
      base::Log(base::LogSeverity::kWarning, "worker", "cannot read the machine's scheduled events",
                {{"url", options_.url}, {"reason", polled.message()}});
    }
    said = std::string(polled.message());
  } while (Pause());
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

bool ScheduledEventsPoller::Pause() {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopping_), options_.interval);
}

absl::StatusOr<std::string> ScheduledEventsPoller::Call(const std::string& method,
                                                        const std::string& path,
                                                        const std::string& body) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("the worker is ending");
  }
  httplib::Request request;
  request.method = method;
  request.path = path;
  // Without it the service refuses: a sign that the request was not forwarded by mistake.
  request.set_header("Metadata", "true");
  if (!body.empty()) {
    request.set_header("Content-Type", "application/json");
    request.body = body;
  }
  std::string text;
  bool too_long = false;
  request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    too_long = text.size() + size > kMostScheduledEventsBytes;
    if (!too_long) text.append(data, size);
    return !too_long;
  };
  try {
    const httplib::Result result = client_->send(request);
    if (too_long) return absl::InvalidArgumentError("the answer is too long");
    if (!result) {
      return absl::UnavailableError(
          absl::StrCat("no answer: ", httplib::to_string(result.error())));
    }
    if (result->status != 200) {
      return absl::UnavailableError(absl::StrCat("answered with HTTP ", result->status));
    }
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("the answer cannot be read: ", error.what()));
  }
  return text;
}

absl::Status ScheduledEventsPoller::LearnName() {
  if (!options_.vm.empty()) return absl::OkStatus();
  MUSTER_ASSIGN_OR_RETURN(const std::string text, Call("GET", kNamePath, ""));
  std::string name(absl::StripAsciiWhitespace(text));
  const bool plain = !name.empty() && name.size() <= kLongestName &&
                     std::all_of(name.begin(), name.end(), [](char c) {
                       return absl::ascii_isgraph(static_cast<unsigned char>(c));
                     });
  if (!plain) return absl::InvalidArgumentError("the machine's name there cannot be read");
  options_.vm = std::move(name);
  return absl::OkStatus();
}

absl::Status ScheduledEventsPoller::Poll() {
  MUSTER_ASSIGN_OR_RETURN(const std::string document, Call("GET", kEventsPath, ""));
  MUSTER_ASSIGN_OR_RETURN(std::vector<v1::MaintenanceEvent> events,
                          ParseScheduledEvents(document, options_.vm));
  const bool changed = !answered_ || !Same(events, events_);
  if (!answered_) {
    base::Log(base::LogSeverity::kInfo, "worker", "watching the machine's scheduled events",
              {{"url", options_.url}, {"vm", options_.vm}});
    SetTimeout(*client_, options_.timeout);
  }
  answered_ = true;
  events_ = std::move(events);
  deps_.on_answer(events_);
  if (!changed) return absl::OkStatus();
  for (const v1::MaintenanceEvent& event : events_) {
    base::Log(base::LogSeverity::kWarning, "worker", "the cloud announces maintenance",
              {{"id", event.id()},
               {"type", event.type()},
               {"status", event.status()},
               {"description", event.description()}});
  }
  deps_.on_change(events_);
  return absl::OkStatus();
}

void ScheduledEventsPoller::SendApprovals() {
  std::set<std::string> wanted;
  {
    absl::MutexLock lock(&mutex_);
    wanted = to_approve_;
  }
  for (const std::string& id : wanted) {
    const bool waits = std::any_of(events_.begin(), events_.end(), [&](const auto& event) {
      return event.id() == id && event.status() == "Scheduled";
    });
    if (waits) {
      const nlohmann::json body = nlohmann::json::object(
          {{"StartRequests", nlohmann::json::array({nlohmann::json::object({{"EventId", id}})})}});
      const auto accepted = Call("POST", kEventsPath, body.dump());
      if (!accepted.ok()) {
        base::Log(base::LogSeverity::kWarning, "worker", "cannot approve a scheduled event",
                  {{"id", id}, {"reason", accepted.status().message()}});
        continue;
      }
      base::Log(base::LogSeverity::kInfo, "worker", "approved a scheduled event", {{"id", id}});
    }
    absl::MutexLock lock(&mutex_);
    to_approve_.erase(id);
  }
}

std::string ScheduledEventsUrl(const std::string& flag, const std::string& asset_tag) {
  if (flag == "off") return "";
  if (!flag.empty()) return flag;
  const absl::StatusOr<std::string> tag = base::ReadFile(asset_tag);
  return tag.ok() && absl::StripAsciiWhitespace(*tag) == kAzureAssetTag ? kMetadataService : "";
}

}  // namespace muster::worker
