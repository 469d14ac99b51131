// JobService.ListEvents.
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "coordinator/service/job_errors.h"
#include "coordinator/service/job_service.h"
#include "coordinator/service/page_token.h"

namespace muster::coordinator {
namespace {

constexpr int kDefaultEvents = 100;

struct Page {
  int size = 0;
  int64_t after = 0;
};

absl::StatusOr<Page> ReadPage(const v1::ListEventsRequest& request) {
  const std::string& parent = request.parent();
  if (!parent.empty() && !absl::StartsWith(parent, "jobs/") &&
      !absl::StartsWith(parent, "nodes/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("parent '", parent, "' is neither jobs/JOB nor nodes/NODE"));
  }
  Page page;
  MUSTER_ASSIGN_OR_RETURN(page.size, PageSize(request.page_size()));
  if (request.page_size() == 0) page.size = kDefaultEvents;
  // A token is of one parent's list.
  MUSTER_ASSIGN_OR_RETURN(const std::string position,
                          ReadPageToken(absl::StrCat("events of ", parent), request.page_token()));
  if (!position.empty() && !absl::SimpleAtoi(position, &page.after)) {
    return absl::InvalidArgumentError("page_token is damaged");
  }
  return page;
}

}  // namespace

grpc::ServerUnaryReactor* JobServiceImpl::ListEvents(grpc::CallbackServerContext* context,
                                                     const v1::ListEventsRequest* request,
                                                     v1::ListEventsResponse* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<Page> page = ReadPage(*request);
  if (!page.ok()) {
    reactor->Finish(JobError(page.status()));
    return reactor;
  }
  deps_.state->Ask([reactor, request, reply, page = *page](const ClusterState* state, Instant) {
    if (state == nullptr) {
      reactor->Finish(JobError(absl::UnavailableError("the coordinator is stopping; try again")));
      return;
    }
    const std::string& parent = request->parent();
    const bool known =
        parent.empty() || state->FindJob(parent) != nullptr || state->FindNode(parent).has_value();
    if (!known) {
      reactor->Finish(JobError(absl::NotFoundError(absl::StrCat("there is no ", parent))));
      return;
    }
    bool more = false;
    for (v1::JobEvent& event : state->ListEvents(parent, page.after, page.size, &more)) {
      *reply->add_events() = std::move(event);
    }
    if (more) {
      reply->set_next_page_token(
          MakePageToken(absl::StrCat("events of ", parent),
                        absl::StrCat(reply->events(reply->events_size() - 1).sequence())));
    }
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

}  // namespace muster::coordinator
