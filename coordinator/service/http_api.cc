#include "coordinator/service/http_api.h"

#include <google/protobuf/util/json_util.h>

#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/endpoint.h"
#include "coordinator/service/page_token.h"
#include "coordinator/service/status_page.h"
#include "muster/v1/job_service.pb.h"
#include "muster/v1/node_service.pb.h"
#include "nlohmann/json.hpp"

namespace muster::coordinator {
namespace {

using metrics::HttpRequest;
using metrics::HttpResponse;

constexpr int kJobsOnPage = 50;

HttpResponse ErrorResponse(int status, absl::string_view message) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/json";
  // The text may quote what came in the URL, which need not be UTF-8.
  response.body = nlohmann::json{{"error", std::string(message)}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
  return response;
}

HttpResponse Stopping() { return ErrorResponse(503, "the coordinator is stopping"); }

HttpResponse JsonResponse(const google::protobuf::Message& message) {
  HttpResponse response;
  response.content_type = "application/json";
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  const auto status = google::protobuf::util::MessageToJsonString(message, &response.body, options);
  if (!status.ok()) return ErrorResponse(500, "the record cannot be written as JSON");
  return response;
}

// Of one of Prometheus's targets.
nlohmann::json Labels(const char* role, bool tls) {
  nlohmann::json labels = {{"__meta_muster_role", role}};
  if (tls) labels["__scheme__"] = "https";
  return labels;
}

struct Page {
  int size = 0;
  std::string position;
};

absl::StatusOr<Page> ReadPage(absl::string_view kind, const HttpRequest& request) {
  int requested = 0;
  if (auto it = request.query.find("page_size"); it != request.query.end()) {
    if (!absl::SimpleAtoi(it->second, &requested)) {
      return absl::InvalidArgumentError("page_size is no number");
    }
  }
  auto token = request.query.find("page_token");
  const absl::StatusOr<int> size = PageSize(requested);
  if (!size.ok()) return size.status();
  absl::StatusOr<std::string> position =
      ReadPageToken(kind, token == request.query.end() ? "" : token->second);
  if (!position.ok()) return position.status();
  return Page{*size, *std::move(position)};
}

}  // namespace

std::vector<metrics::HttpServer::Route> HttpApi::Routes() {
  return {
      {"/", [this](const HttpRequest&) { return StatusPage(); }},
      {"/metrics", [this](const HttpRequest&) { return Metrics(); }},
      metrics::HealthRoute(),
      {"/v1/sd/prometheus", [this](const HttpRequest&) { return Targets(); }},
      {"/v1/jobs", [this](const HttpRequest& request) { return Jobs(request); }},
      {"/v1/jobs/([^/]+)", [this](const HttpRequest& request) { return Job(request); }},
      {"/v1/nodes", [this](const HttpRequest& request) { return Nodes(request); }},
  };
}

std::optional<HttpResponse> HttpApi::Refuse(const std::string& pattern,
                                            const std::string& authorization) {
  const absl::Status admitted = deps_.access->AdmitHttp(pattern, authorization);
  if (admitted.ok()) return std::nullopt;
  if (admitted.code() == absl::StatusCode::kResourceExhausted) {
    return ErrorResponse(429, admitted.message());
  }
  if (admitted.code() != absl::StatusCode::kUnauthenticated) {
    return ErrorResponse(403, admitted.message());
  }
  HttpResponse response = ErrorResponse(401, admitted.message());
  // Makes browsers ask: any user name, the token as the password.
  response.headers["WWW-Authenticate"] = "Basic realm=\"muster\"";
  return response;
}

void HttpApi::SetOwnAddress(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  own_address_ = address;
}

HttpResponse HttpApi::Metrics() {
  bool answered = false;
  deps_.state->AskAndWait([&](const ClusterState* state, Instant now) {
    if (state == nullptr) return;
    deps_.metrics->Refresh(*state, now);
    answered = true;
  });
  if (!answered) return Stopping();
  HttpResponse response;
  response.content_type = std::string(metrics::kTextFormatContentType);
  response.body = deps_.registry->Serialize();
  return response;
}

HttpResponse HttpApi::Targets() {
  std::optional<std::vector<v1::Node>> nodes;
  deps_.state->AskAndWait([&](const ClusterState* state, Instant) {
    bool more = false;
    if (state != nullptr) nodes = state->ListNodes(std::numeric_limits<int>::max(), "", &more);
  });
  if (!nodes.has_value()) return Stopping();
  nlohmann::json targets = nlohmann::json::array();
  {
    absl::MutexLock lock(&mutex_);
    if (!own_address_.empty()) {
      targets.push_back(
          {{"targets", {own_address_}}, {"labels", Labels("coordinator", deps_.tls)}});
    }
  }
  for (const v1::Node& node : *nodes) {
    const std::string& address = node.inventory().metrics_address();
    if (node.state() == v1::Node::STATE_LOST || address.empty()) continue;
    const std::string name(absl::StripPrefix(node.name(), "nodes/"));
    // A worker that serves loopback only does it in plaintext.
    const absl::StatusOr<base::Endpoint> endpoint = base::ParseEndpoint(address);
    nlohmann::json labels = Labels("worker", deps_.tls && endpoint.ok() && !endpoint->IsLoopback());
    labels["__meta_muster_node"] = name;
    labels["node"] = name;
    targets.push_back({{"targets", {address}}, {"labels", std::move(labels)}});
  }
  HttpResponse response;
  response.content_type = "application/json";
  response.body = targets.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return response;
}

HttpResponse HttpApi::Jobs(const HttpRequest& request) {
  const absl::StatusOr<Page> page = ReadPage("jobs", request);
  int64_t before = 0;
  if (!page.ok()) return ErrorResponse(400, page.status().message());
  if (!page->position.empty() && !absl::SimpleAtoi(page->position, &before)) {
    return ErrorResponse(400, "page_token is damaged");
  }
  v1::ListJobsResponse list;
  bool answered = false;
  deps_.state->AskAndWait([&](const ClusterState* state, Instant) {
    if (state == nullptr) return;
    int64_t next = 0;
    for (v1::Job& job : state->ListJobs(page->size, before, {}, &next)) {
      *list.add_jobs() = std::move(job);
    }
    if (next != 0) list.set_next_page_token(MakePageToken("jobs", absl::StrCat(next)));
    answered = true;
  });
  return answered ? JsonResponse(list) : Stopping();
}

HttpResponse HttpApi::Job(const HttpRequest& request) {
  const std::string name = absl::StrCat("jobs/", request.groups[1]);
  std::optional<v1::Job> found;
  bool answered = false;
  deps_.state->AskAndWait([&](const ClusterState* state, Instant) {
    if (state == nullptr) return;
    if (const v1::Job* job = state->FindJob(name); job != nullptr) found = *job;
    answered = true;
  });
  if (!answered) return Stopping();
  if (!found.has_value()) return ErrorResponse(404, absl::StrCat("there is no job '", name, "'"));
  return JsonResponse(*found);
}

HttpResponse HttpApi::Nodes(const HttpRequest& request) {
  const absl::StatusOr<Page> page = ReadPage("nodes", request);
  if (!page.ok()) return ErrorResponse(400, page.status().message());
  v1::ListNodesResponse list;
  bool answered = false;
  deps_.state->AskAndWait([&](const ClusterState* state, Instant) {
    if (state == nullptr) return;
    bool more = false;
    for (v1::Node& node : state->ListNodes(page->size, page->position, &more)) {
      *list.add_nodes() = std::move(node);
    }
    if (more) {
      list.set_next_page_token(MakePageToken("nodes", list.nodes(list.nodes_size() - 1).name()));
    }
    answered = true;
  });
  return answered ? JsonResponse(list) : Stopping();
}

HttpResponse HttpApi::StatusPage() {
  std::vector<v1::Job> jobs;
  std::vector<v1::Node> nodes;
  bool answered = false;
  deps_.state->AskAndWait([&](const ClusterState* state, Instant) {
    if (state == nullptr) return;
    int64_t next = 0;
    bool more = false;
    jobs = state->ListJobs(kJobsOnPage, 0, {}, &next);
    nodes = state->ListNodes(std::numeric_limits<int>::max(), "", &more);
    answered = true;
  });
  if (!answered) return Stopping();
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.body = RenderStatusPage(jobs, nodes);
  return response;
}

}  // namespace muster::coordinator
