// The documents of Azure's metadata service, and the lines that workers send each other before a
// job starts: the first byte says which.
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_target.h"
#include "worker/daemon/probe_messages.h"
#include "worker/daemon/scheduled_events.h"

namespace muster::fuzz {
namespace {

constexpr char kNonce[] = "0123456789abcdef0123456789abcdef";

bool IsPlain(const std::string& text) {
  for (char c : text) {
    if (c < ' ' || c > '~') return false;
  }
  return true;
}

void FuzzDocument(const std::string& text) {
  const auto events = worker::ParseScheduledEvents(text, "vm-7");
  if (!events.ok()) return;
  Require(events->size() <= 100, "bounded");
  for (const v1::MaintenanceEvent& event : *events) {
    Require(!event.id().empty() && event.id().size() <= 128 && IsPlain(event.id()), "an id");
    Require(!event.type().empty() && event.type().size() <= 32 && IsPlain(event.type()), "a type");
    Require(event.description().size() <= 300 && IsPlain(event.description()), "a plain text");
    Require(event.duration_seconds() >= -1, "a duration");
    Require(!event.has_not_before() || event.not_before().seconds() > 0, "a date");
  }
}

void FuzzLine(const std::string& line) {
  if (const auto request = worker::ParseProbeRequest(line); request.ok()) {
    const std::string again = worker::ToLine(*request);
    const auto same = worker::ParseProbeRequest(again.substr(0, again.size() - 1));
    Require(same.ok() && same->nonce == request->nonce && same->job == request->job &&
                same->interface == request->interface && same->generation == request->generation,
            "a request survives");
  }
  if (const auto answer = worker::ParseProbeAnswer(line); answer.ok()) {
    const std::string again = worker::ToLine(*answer);
    Require(again.size() <= worker::kMostProbeBytes && again.back() == '\n', "one short line");
    Require(IsPlain(answer->error) && IsPlain(answer->ip) && answer->ports.size() <= 16, "plain");
  }
}

}  // namespace

std::vector<std::string> Seeds() {
  return {
      R"(d{"DocumentIncarnation": 1, "Events": []})",
      R"(d{"DocumentIncarnation": 1, "Events": [{"EventId": "e1", "EventStatus": "Scheduled",
          "EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": ["vm-7"],
          "NotBefore": "Mon, 11 Apr 2022 22:26:58 GMT", "Description": "x",
          "EventSource": "Platform", "DurationInSeconds": -1}]})",
      "l" + worker::ToLine(worker::ProbeRequest{"jobs/a", 3, kNonce, "eth0"}),
      "l" + worker::ToLine(worker::ProbeAnswer{"b", "jobs/a", 3, kNonce, "10.0.0.4", {40000}, ""}),
      "l" + worker::ToLine(worker::ProbeAnswer{"b", "jobs/a", 3, kNonce, "", {}, "no port"})};
}

void FuzzOne(absl::Span<const uint8_t> input) {
  if (input.empty()) return;
  const std::string text(input.begin() + 1, input.end());
  if (input[0] == 'd') {
    FuzzDocument(text);
  } else {
    FuzzLine(text.substr(0, text.find('\n')));
  }
}

}  // namespace muster::fuzz
