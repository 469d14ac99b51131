#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace muster::coordinator {

// What a job asks for: all of it at once, or nothing.
struct Gang {
  int nodes = 1;
  int ranks_per_node = 1;
};

struct NodeCapacity {
  std::string name;
  int slots = 0;
  int free_slots = 0;
};

// The gang's nodes in order of node_rank, or nothing when it does not fit now. Nodes in `preferred`
// (those that hold the job's checkpoints) come first, then those with most free slots, so that jobs
// spread; names break ties.
std::optional<std::vector<std::string>> PlaceGang(const Gang& gang,
                                                  const std::vector<NodeCapacity>& nodes,
                                                  const std::set<std::string>& preferred);

// Whether it would fit if no other job ran.
bool FitsWhenEmpty(const Gang& gang, const std::vector<NodeCapacity>& nodes);

// What a gang that does not fit waits for: "waits for 2 nodes with 1 free slot each; 1 of 2 ready".
std::string WaitReason(const Gang& gang, const std::vector<NodeCapacity>& nodes);

}  // namespace muster::coordinator
