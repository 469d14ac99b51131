#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace muster::train {

struct LaunchRequest {
  // The program and its arguments, the same for each rank; ranks tell themselves apart by RANK.
  std::filesystem::path program;
  std::vector<std::string> arguments;
  int ranks = 1;
};

// Runs a job's ranks as processes of this machine over 127.0.0.1, with the environment that a
// worker gives them; the caller has one thread. Rank 0 keeps standard output and error, the others
// are heard only when they fail. The first failure ends the rest; SIGINT and SIGTERM ask all ranks
// to stop after their step (a second SIGINT kills them); when this process dies, they die. Returns
// the first failure's exit code (128 + the signal of a killed one), or 0.
int LaunchRanks(const LaunchRequest& request);

}  // namespace muster::train
