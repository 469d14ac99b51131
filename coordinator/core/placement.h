#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "muster/config/v1/train_job.pb.h"
#include "muster/v1/node.pb.h"

namespace muster::coordinator {

// What a job asks for: min_nodes to max_nodes nodes at once, or nothing.
struct Gang {
  int nodes = 1;
  int ranks_per_node = 1;
  int min_nodes = 1;
  int max_nodes = 1;
  // Only nodes with all of these labels, and whose GPUs are all of these types (empty: any).
  std::map<std::string, std::string> labels;
  std::set<std::string> gpu_types;

  bool elastic() const { return min_nodes < max_nodes; }
  // Takes any node with enough slots.
  bool plain() const { return labels.empty() && gpu_types.empty(); }
};

Gang GangOf(const config::v1::TrainJob& config);

// Whether labels and GPU types of a node are what the gang asks for.
bool Allows(const Gang& gang, const v1::Inventory& inventory);

// " with 2 free slots each, label zone=a and GPU type A100", for `what` "free"; each is left out
// when nothing is asked for.
std::string NodeWish(const Gang& gang, absl::string_view what);

// What a gang that does not fit waits for: "waits for 2 nodes with 1 free slot each; 1 of 2 ready".
std::string WaitReason(const Gang& gang, int ready);

}  // namespace muster::coordinator
