#include "coordinator/service/leader_standby.h"

#include <cstdio>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace muster::coordinator {

using metrics::HttpRequest;
using metrics::HttpResponse;

LeaderStandby::LeaderStandby(Options options, LeaderLease* lease)
    : options_(std::move(options)), lease_(lease) {
  registry_
      .AddGauge("muster_coordinator_leader", "1 on the coordinator that leads, 0 on a standby.")
      .Add({})
      .Set(0);
}

absl::StatusOr<bool> LeaderStandby::WaitUntilLeading(const Pause& pause) {
  const absl::Cleanup stop = [this] { server_.reset(); };
  bool failing = false;
  while (true) {
    const absl::StatusOr<std::optional<LeaderLease::Leader>> leader = lease_->TryAcquire();
    if (leader.ok() && !leader->has_value()) return true;
    if (!leader.ok() && !absl::IsUnavailable(leader.status())) return leader.status();
    if (server_ == nullptr) MUSTER_RETURN_IF_ERROR(Serve());
    SetLeader(leader.ok() ? (*leader)->address : "");
    if (!leader.ok() && !failing) {
      base::Log(base::LogSeverity::kWarning, "coordinator",
                "the store does not answer; trying again",
                {{"error", std::string(leader.status().message())}});
    }
    failing = !leader.ok();
    if (!pause(options_.poll_interval)) return false;
  }
}

absl::Status LeaderStandby::Serve() {
  std::vector<metrics::HttpServer::Route> routes = {
      {"/healthz",
       [this](const HttpRequest&) {
         HttpResponse response;
         response.body = absl::StrCat(Text(), "\n");
         return response;
       }},
      metrics::MetricsRoute(registry_),
      {".*", [this](const HttpRequest&) {
         HttpResponse response;
         response.status = 503;
         response.content_type = "application/json";
         response.body = nlohmann::json{{"error", Text()}}.dump();
         return response;
       }}};
  MUSTER_ASSIGN_OR_RETURN(
      server_, metrics::HttpServer::Start(options_.http, std::move(routes), options_.protection));
  std::printf("muster-coordinator: standing by, %s (HTTP)\n",
              server_->endpoint().ToString().c_str());
  std::fflush(stdout);
  return absl::OkStatus();
}

void LeaderStandby::SetLeader(const std::string& leader) {
  absl::MutexLock lock(&mutex_);
  if (leader == leader_) return;
  leader_ = leader;
  if (leader.empty()) return;
  base::Log(base::LogSeverity::kInfo, "coordinator", "standing by", {{"leader", leader}});
}

std::string LeaderStandby::Text() const {
  absl::MutexLock lock(&mutex_);
  return absl::StrCat("standby; ",
                      leader_.empty() ? "no coordinator leads" : absl::StrCat(leader_, " leads"));
}

}  // namespace muster::coordinator
