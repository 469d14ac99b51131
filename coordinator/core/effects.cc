#include "coordinator/core/effects.h"

#include <algorithm>
#include <utility>

namespace muster::coordinator {
namespace {

template <typename Record>
void MergeRecords(std::map<std::string, Record> later, std::map<std::string, Record>* into) {
  for (auto& [key, record] : later) (*into)[key] = std::move(record);
}

}  // namespace

const std::string& EventSubject(const v1::JobEvent& event) {
  return event.job().empty() ? event.node() : event.job();
}

void Writes::Merge(Writes later) {
  if (!later.expired_jobs.empty()) {
    for (const std::string& name : later.expired_jobs) jobs.erase(name);
    auto expired = [&](const v1::JobEvent& event) {
      return later.expired_jobs.count(event.job()) > 0;
    };
    events.erase(std::remove_if(events.begin(), events.end(), expired), events.end());
  }
  expired_jobs.merge(later.expired_jobs);
  MergeRecords(std::move(later.jobs), &jobs);
  MergeRecords(std::move(later.nodes), &nodes);
  MergeRecords(std::move(later.requests), &requests);
  MergeRecords(std::move(later.tokens), &tokens);
  expired_requests.merge(later.expired_requests);
  for (const std::string& id : later.expired_tokens) tokens.erase(id);
  expired_tokens.merge(later.expired_tokens);
  for (v1::JobEvent& event : later.events) events.push_back(std::move(event));
}

}  // namespace muster::coordinator
