#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"

#include "coordinator/core/placement.h"
#include "muster/v1/node.pb.h"

namespace muster::coordinator {

// Free slots of all nodes, by number of free slots, so that a gang's nodes are found without a look
// at the others. Nodes have indexes that never change. Not thread-safe.
class NodePool {
 public:
  struct Node {
    std::string name;
    v1::Inventory inventory;
    // Something may be placed on it now.
    bool usable = false;
    int free = 0;

    int slots() const { return inventory.slots(); }
  };

  // The node's index; it is added when it is new.
  int Index(const std::string& name);
  // -1: there is no such node.
  int Find(const std::string& name) const;
  const Node& node(int index) const { return nodes_[index]; }
  int size() const { return static_cast<int>(nodes_.size()); }

  void Describe(int index, const v1::Inventory& inventory);
  void Set(int index, bool usable, int free);

  // Of the node, the slots of those free that this job may use.
  using Limit = absl::FunctionRef<int(int index, int free)>;
  // Up to `most` nodes for the gang, at least gang.min_nodes, in order of name; empty when it does
  // not fit now. Those in `preferred` (which hold the job's checkpoints) come first, then those
  // whose free slots fit tightest, then those with fewest slots: so large nodes stay free for jobs
  // that need them.
  std::vector<int> Choose(const Gang& gang, int most, const std::set<int>& preferred,
                          Limit limit) const;
  // Usable nodes that the gang may use at all, with so many slots free within `limit`.
  int CountReady(const Gang& gang, Limit limit) const;
  // Usable nodes with enough slots in all, and whether the gang would fit if no job ran.
  int CountLargeEnough(const Gang& gang) const;
  bool FitsWhenEmpty(const Gang& gang) const { return CountLargeEnough(gang) >= gang.min_nodes; }
  // With at least so many slots in all.
  int CountUsable(int slots = 0) const;

 private:
  // Slots, then index.
  using Bucket = std::set<std::pair<int, int>>;

  std::vector<Node> nodes_;
  std::unordered_map<std::string, int> indexes_;
  // Usable nodes by free slots.
  std::vector<Bucket> by_free_;
  // How many nodes with so many slots in all are usable.
  std::map<int, int> usable_by_slots_;
};

}  // namespace muster::coordinator
