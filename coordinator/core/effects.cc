#include "coordinator/core/effects.h"

#include <utility>

namespace muster::coordinator {
namespace {

template <typename Record>
void MergeRecords(std::map<std::string, Record> later, std::map<std::string, Record>* into) {
  for (auto& [key, record] : later) (*into)[key] = std::move(record);
}

}  // namespace

void Writes::Merge(Writes later) {
  MergeRecords(std::move(later.jobs), &jobs);
  MergeRecords(std::move(later.nodes), &nodes);
  MergeRecords(std::move(later.requests), &requests);
  expired_requests.merge(later.expired_requests);
  for (v1::JobEvent& event : later.events) events.push_back(std::move(event));
}

}  // namespace muster::coordinator
