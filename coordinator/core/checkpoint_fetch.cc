#include "coordinator/core/checkpoint_fetch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "coordinator/core/lineage.h"

namespace muster::coordinator {
namespace {

using v1::AllocationStatus;

// Each carries a certificate.
constexpr size_t kMostSources = 8;
constexpr size_t kNamedNodes = 3;

bool Lists(const internal::ShareRecord& share, const v1::Checkpoint& checkpoint) {
  const auto& held = share.status().checkpoints();
  return std::any_of(held.begin(), held.end(), [&](const v1::Checkpoint& one) {
    return SamePoint(one, checkpoint) && one.digest() == checkpoint.digest();
  });
}

bool Names(const internal::CheckpointRecord& entry, const std::string& node) {
  return std::find(entry.nodes().begin(), entry.nodes().end(), node) != entry.nodes().end();
}

bool GangHolds(const internal::JobRecord& record, const internal::CheckpointRecord& entry) {
  return std::any_of(record.shares().begin(), record.shares().end(), [&](const auto& share) {
    return share.status().phase() == AllocationStatus::PHASE_PREPARED
               ? Lists(share, entry.checkpoint())
               : Names(entry, share.node());
  });
}

const std::string* FetchingNode(const internal::JobRecord& record) {
  for (const internal::ShareRecord& share : record.shares()) {
    if (share.node_rank() == 0) return &share.node();
  }
  return nullptr;
}

}  // namespace

std::optional<FetchPlan> PlanFetch(const internal::JobRecord& record, LookAtNode look) {
  const std::string* fetching = FetchingNode(record);
  const std::vector<const internal::CheckpointRecord*> candidates = OnLineage(record);
  if (fetching == nullptr || candidates.empty() || !look(*fetching).fetches) return std::nullopt;
  int64_t held_step = -1;
  for (const internal::CheckpointRecord* entry : candidates) {
    if (!GangHolds(record, *entry)) continue;
    held_step = entry->checkpoint().step();
    break;
  }
  for (const internal::CheckpointRecord* entry : candidates) {
    if (entry->checkpoint().step() <= held_step) break;
    FetchPlan plan;
    plan.checkpoint = entry->checkpoint();
    for (const std::string& node : entry->nodes()) {
      const NodeReach reach = look(node);
      if (reach.there && reach.serves && plan.sources.size() < kMostSources) {
        plan.sources.push_back(node);
      }
    }
    if (!plan.sources.empty()) return plan;
  }
  return std::nullopt;
}

std::string WhyOlder(const internal::JobRecord& record, int64_t resume_step, LookAtNode look) {
  const std::vector<const internal::CheckpointRecord*> candidates = OnLineage(record);
  if (candidates.empty() || candidates.front()->checkpoint().step() <= resume_step) return "";
  const internal::CheckpointRecord& newest = *candidates.front();
  const std::string& file = newest.checkpoint().file();
  if (newest.nodes().empty()) return absl::StrCat("no node is known to hold ", file);
  std::vector<std::string> names;
  bool there = false;
  for (const std::string& node : newest.nodes()) {
    there = there || look(node).there;
    if (names.size() < kNamedNodes) names.push_back(absl::StrCat("nodes/", node));
  }
  const int more = newest.nodes_size() - static_cast<int>(names.size());
  const bool one = newest.nodes_size() == 1;
  return absl::StrCat(absl::StrJoin(names, ", "),
                      more > 0 ? absl::StrCat(" and ", more, " more") : "",
                      one ? ", which holds " : ", which hold ", file,
                      !there ? (one ? ", is not there" : ", are not there")
                             : ", cannot hand it on (a worker of an older release takes part)");
}

}  // namespace muster::coordinator
