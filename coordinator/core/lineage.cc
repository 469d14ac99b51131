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

bool OnLineage(const std::map<int64_t, int64_t>& limits, const v1::Checkpoint& checkpoint) {
  auto it = limits.find(checkpoint.generation());
  return it != limits.end() && checkpoint.step() <= it->second;
}

bool SamePoint(const v1::Checkpoint& a, const v1::Checkpoint& b) {
  return a.generation() == b.generation() && a.step() == b.step();
}

}  // namespace

CheckpointNews RegisterCheckpoint(const v1::Checkpoint& checkpoint, internal::JobRecord* record) {
  const internal::GenerationRecord* generation = FindGeneration(*record, checkpoint.generation());
  if (generation == nullptr || generation->parent_generation() != checkpoint.parent_generation() ||
      generation->parent_step() != checkpoint.parent_step()) {
    return CheckpointNews::kForeign;
  }
  for (internal::CheckpointRecord& entry : *record->mutable_checkpoints()) {
    if (!SamePoint(entry.checkpoint(), checkpoint)) continue;
    if (entry.checkpoint().digest() == checkpoint.digest() || entry.rejected()) {
      return CheckpointNews::kKnown;
    }
    entry.set_rejected(true);
    return CheckpointNews::kDigestsDiffer;
  }
  *record->add_checkpoints()->mutable_checkpoint() = checkpoint;
  auto* all = record->mutable_checkpoints();
  std::sort(all->begin(), all->end(), [](const auto& a, const auto& b) {
    return std::make_tuple(a.checkpoint().generation(), a.checkpoint().step()) <
           std::make_tuple(b.checkpoint().generation(), b.checkpoint().step());
  });
  if (all->size() > kKeptCheckpoints) all->DeleteSubrange(0, all->size() - kKeptCheckpoints);
  return CheckpointNews::kNew;
}

const v1::Checkpoint* NewestCheckpoint(const internal::JobRecord& record) {
  const std::map<int64_t, int64_t> limits = StepLimits(record);
  const v1::Checkpoint* newest = nullptr;
  for (const internal::CheckpointRecord& entry : record.checkpoints()) {
    if (entry.rejected() || !OnLineage(limits, entry.checkpoint())) continue;
    if (newest == nullptr || entry.checkpoint().step() >= newest->step()) {
      newest = &entry.checkpoint();
    }
  }
  return newest;
}

std::optional<ResumePoint> ChooseResume(const internal::JobRecord& record) {
  const std::map<int64_t, int64_t> limits = StepLimits(record);
  std::optional<ResumePoint> best;
  for (const internal::CheckpointRecord& entry : record.checkpoints()) {
    const v1::Checkpoint& candidate = entry.checkpoint();
    if (entry.rejected() || !OnLineage(limits, candidate)) continue;
    if (best.has_value() && best->checkpoint.step() > candidate.step()) continue;
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
