#pragma once

#include <string>

#include "cli/commands.h"

// The commands about nodes; see commands.h for what all of them share. `node` may be given with or
// without "nodes/".
namespace muster::cli {

int Nodes(bool json, const Context& context);

int Cordon(const std::string& node, const std::string& reason, bool json, const Context& context);
int Uncordon(const std::string& node, bool json, const Context& context);

// Until nothing runs on the node any more, telling what still does whenever that changes; survives
// a restart of the coordinator. Ctrl-C leaves the node draining. kExitJobFailed when somebody ends
// the draining meanwhile.
int Drain(const std::string& node, const std::string& reason, bool json, const Context& context);

}  // namespace muster::cli
