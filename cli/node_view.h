#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

#include "muster/v1/node.pb.h"

// How nodes look in a terminal. Pure.
namespace muster::cli {

// "READY", "CORDONED", "DRAINING", "DRAINED" (nothing runs there any more), "UNREACHABLE", "LOST".
std::string NodeStateName(const v1::Node& node);

// Columns that no node has anything for are left out.
std::string NodeTable(const std::vector<v1::Node>& nodes, absl::Time now);

// How far the draining of a node is: "nodes/w1 DRAINING; 2 jobs left: jobs/a, jobs/b".
std::string DrainLine(const v1::Node& node);

}  // namespace muster::cli
