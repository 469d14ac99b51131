// `muster events`.
#include <google/protobuf/util/time_util.h>

#include <ostream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "cli/commands.h"
#include "cli/format.h"
#include "common/base/exit_codes.h"

namespace muster::cli {
namespace {

constexpr int kEventsAtOnce = 1000;

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime(
      "%Y-%m-%d %H:%M:%S",
      absl::FromUnixNanos(google::protobuf::util::TimeUtil::TimestampToNanoseconds(time)),
      absl::LocalTimeZone());
}

// What it is about: its job, its node, or both.
std::string ObjectText(const v1::JobEvent& event) {
  if (event.job().empty() || event.node().empty()) return absl::StrCat(event.job(), event.node());
  return absl::StrCat(event.job(), " ", event.node());
}

std::string EventTable(const v1::ListEventsResponse& response, bool header) {
  std::vector<std::vector<std::string>> rows;
  if (header) rows.push_back({"TIME", "OBJECT", "TYPE", "ACTOR", "MESSAGE"});
  for (const v1::JobEvent& event : response.events()) {
    rows.push_back({TimeText(event.time()), ObjectText(event), event.type(),
                    event.actor().empty() ? "-" : event.actor(), event.message()});
  }
  return FormatTable(rows);
}

}  // namespace

int Events(const EventsOptions& options, const Context& context) {
  v1::ListEventsRequest request;
  if (!options.job.empty()) request.set_parent(JobName(options.job));
  if (!options.node.empty()) {
    request.set_parent(absl::StartsWith(options.node, "nodes/")
                           ? options.node
                           : absl::StrCat("nodes/", options.node));
  }
  request.set_page_size(kEventsAtOnce);
  bool first = true;
  do {
    v1::ListEventsResponse response;
    const grpc::Status status = context.client.ListEvents(request, &response);
    if (!status.ok()) {
      context.err << "muster: " << context.client.Explain(status) << "\n";
      return ExitCodeFor(status);
    }
    if (options.json) {
      for (const v1::JobEvent& event : response.events()) context.out << ToJson(event) << "\n";
    } else if (first && response.events().empty()) {
      context.out << "no events\n";
    } else {
      context.out << EventTable(response, first);
    }
    first = false;
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return base::kExitCompleted;
}

}  // namespace muster::cli
