#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace muster::worker {

// The process between the worker daemon and one trainer (`muster-worker shim --dir D -- PROGRAM
// ...`). It outlives the daemon, so that a restarted daemon finds the trainer's logs and exit
// status.
//
// In a session of its own it starts the program in a process group of its own, with standard output
// and error appended to D/stdout.log and D/stderr.log, writes D/pid.json, and waits. SIGTERM,
// SIGINT and SIGHUP go on to the program's group. When the program has ended, whatever it left
// behind is killed, and only then D/exit.json is written (rank_files.h). When the shim itself is
// killed, the kernel kills the program.
//
// On a disk that fills up meanwhile what the program prints is lost, but neither the program nor
// its exit status.
//
// A descriptor that the shim inherits above standard error goes on to the program. Returns the
// shim's exit code: 0 when D/exit.json was written, also if the program failed.
int RunShim(const std::filesystem::path& rank_folder, const std::vector<std::string>& command);

// The command line after "shim".
int ShimMain(const std::vector<std::string>& arguments);

}  // namespace muster::worker
