#include "coordinator/core/lineage.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

namespace muster::coordinator {
namespace {

constexpr int kKeptCheckpoints = 100;
constexpr int kKeptHolders = 10;

const internal::GenerationRecord* FindGeneration(const internal::JobRecord& record,
                                                 int64_t generation) {
  for (const internal::GenerationRecord& entry : record.generations()) {
    if (entry.generation() == generation) return &entry;
  }
  return nullptr;
}

// By generation, the highest step that is on the lineage.
std::map<int64_t, int64_t> StepLimits(const internal::JobRecord& record) {
  int64_t head = 0;
  for (const internal::CheckpointRecord& entry : record.checkpoints()) {
    if (!entry.rejected()) head = std::max(head, entry.checkpoint().generation());
  }
  std::map<int64_t, int64_t> limits;
  int64_t limit = std::numeric_limits<int64_t>::max();
  while (head > 0) {
    const internal::GenerationRecord* entry = FindGeneration(record, head);
    if (entry == nullptr) break;
    limits[head] = limit;
    // Parents are older; a record that says otherwise must not loop.
    if (entry->parent_generation() >= head) break;
    limit = entry->parent_step();
    head = entry->parent_generation();
  }
  return limits;
}

bool NameHolder(const std::string& node, internal::CheckpointRecord* entry) {
  if (std::count(entry->nodes().begin(), entry->nodes().end(), node) > 0) return false;
  entry->add_nodes(node);
  return true;
}

bool RemoveHolder(const std::string& node, internal::CheckpointRecord* entry) {
  auto* nodes = entry->mutable_nodes();
  const auto gone = std::remove(nodes->begin(), nodes->end(), node);
  const bool was_there = gone != nodes->end();
  nodes->erase(gone, nodes->end());
  return was_there;
}

}  // namespace

bool SamePoint(const v1::Checkpoint& a, const v1::Checkpoint& b) {
  return a.generation() == b.generation() && a.step() == b.step();
}

CheckpointNews RegisterCheckpoint(const v1::Checkpoint& checkpoint, const std::string& node,
                                  internal::JobRecord* record) {
  const internal::GenerationRecord* generation = FindGeneration(*record, checkpoint.generation());
  if (generation == nullptr || generation->parent_generation() != checkpoint.parent_generation() ||
      generation->parent_step() != checkpoint.parent_step()) {
    return CheckpointNews::kForeign;
  }
  for (internal::CheckpointRecord& entry : *record->mutable_checkpoints()) {
    if (!SamePoint(entry.checkpoint(), checkpoint)) continue;
    if (entry.rejected()) return CheckpointNews::kKnown;
    if (entry.checkpoint().digest() == checkpoint.digest()) {
      return NameHolder(node, &entry) ? CheckpointNews::kNewHolder : CheckpointNews::kKnown;
    }
    entry.set_rejected(true);
    entry.clear_nodes();
    return CheckpointNews::kDigestsDiffer;
  }
  internal::CheckpointRecord* added = record->add_checkpoints();
  *added->mutable_checkpoint() = checkpoint;
  added->add_nodes(node);
  auto* all = record->mutable_checkpoints();
  std::sort(all->begin(), all->end(), [](const auto& a, const auto& b) {
    return std::make_tuple(a.checkpoint().generation(), a.checkpoint().step()) <
           std::make_tuple(b.checkpoint().generation(), b.checkpoint().step());
  });
  if (all->size() > kKeptCheckpoints) all->DeleteSubrange(0, all->size() - kKeptCheckpoints);
  for (int i = 0; i < all->size() - kKeptHolders; ++i) all->Mutable(i)->clear_nodes();
  return CheckpointNews::kNew;
}

bool HoldsOnly(const std::string& node, const v1::AllocationStatus& prepared,
               internal::JobRecord* record) {
  bool changed = false;
  for (internal::CheckpointRecord& entry : *record->mutable_checkpoints()) {
    const bool holds =
        std::any_of(prepared.checkpoints().begin(), prepared.checkpoints().end(),
                    [&](const auto& held) { return SamePoint(held, entry.checkpoint()); });
    if (!holds) changed = RemoveHolder(node, &entry) || changed;
  }
  return changed;
}

bool HoldsNoMore(const std::string& node, const v1::Checkpoint& checkpoint,
                 internal::JobRecord* record) {
  bool changed = false;
  for (internal::CheckpointRecord& entry : *record->mutable_checkpoints()) {
    if (SamePoint(entry.checkpoint(), checkpoint)) changed = RemoveHolder(node, &entry);
  }
  return changed;
}

std::vector<const internal::CheckpointRecord*> OnLineage(const internal::JobRecord& record) {
  const std::map<int64_t, int64_t> limits = StepLimits(record);
  std::vector<const internal::CheckpointRecord*> entries;
  for (const internal::CheckpointRecord& entry : record.checkpoints()) {
    const auto limit = limits.find(entry.checkpoint().generation());
    const bool on_lineage = limit != limits.end() && entry.checkpoint().step() <= limit->second;
    if (on_lineage && !entry.rejected()) entries.push_back(&entry);
  }
  std::sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) {
    return std::make_tuple(a->checkpoint().step(), a->checkpoint().generation()) >
           std::make_tuple(b->checkpoint().step(), b->checkpoint().generation());
  });
  return entries;
}

const v1::Checkpoint* NewestCheckpoint(const internal::JobRecord& record) {
  const std::vector<const internal::CheckpointRecord*> entries = OnLineage(record);
  return entries.empty() ? nullptr : &entries.front()->checkpoint();
}

std::optional<ResumePoint> ChooseResume(const internal::JobRecord& record) {
  std::optional<ResumePoint> best;
  for (const internal::CheckpointRecord* entry : OnLineage(record)) {
    const v1::Checkpoint& candidate = entry->checkpoint();
    if (best.has_value() && best->checkpoint.step() > candidate.step()) break;
    // One point may lie in files of different names (epoch_3.pth and step_120.pth); the message
    // carries one name, so take the one that most nodes have.
    std::map<std::string, std::vector<int>> holders_by_file;
    std::map<std::string, const v1::Checkpoint*> held_by_file;
    for (const internal::ShareRecord& share : record.shares()) {
      for (const v1::Checkpoint& held : share.status().checkpoints()) {
        if (!SamePoint(held, candidate) || held.digest() != candidate.digest()) continue;
        std::vector<int>& holders = holders_by_file[held.file()];
        holders.insert(holders.end(), share.ranks().begin(), share.ranks().end());
        held_by_file[held.file()] = &held;
      }
    }
    for (auto& [file, holders] : holders_by_file) {
      const bool better = !best.has_value() || candidate.step() > best->checkpoint.step() ||
                          holders.size() > best->holders.size();
      if (!better) continue;
      std::sort(holders.begin(), holders.end());
      best = ResumePoint{*held_by_file[file], holders};
    }
  }
  return best;
}

}  // namespace muster::coordinator
