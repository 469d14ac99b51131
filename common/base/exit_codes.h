#pragma once

// Exit codes of the programs. The worker decides by them whether a retry makes sense, so they are
// an interface: docs/operations/exit_codes.md lists them, and a test compares the two.
namespace muster::base {

enum ExitCode : int {
  kExitCompleted = 0,
  // The command line is wrong.
  kExitUsage = 2,
  // The config is wrong: a retry fails in the same way.
  kExitBadConfig = 3,
  // A job that the command waited for failed or was cancelled (muster submit --follow, muster
  // watch).
  kExitJobFailed = 4,
  // The coordinator or worker could not be reached.
  kExitUnavailable = 5,
  // Training was asked to stop and did, after a checkpoint and before its last step.
  kExitStopped = 10,
  // A peer is gone, or a collective timed out; the cause is on another rank.
  kExitCollectiveLost = 11,
  // An image or annotation cannot be read.
  kExitDataError = 12,
  // A loss is not finite.
  kExitNonFinite = 13,
  // A checkpoint to start from cannot be read.
  kExitCheckpointError = 14,
  // The device asked for is not there.
  kExitDeviceError = 15,
  // A defect of the program.
  kExitInternal = 70,
};

// Whether a failed rank may succeed when it is started again from the newest checkpoint.
constexpr bool IsRetryable(int exit_code) {
  return exit_code != kExitUsage && exit_code != kExitBadConfig && exit_code != kExitDeviceError;
}

}  // namespace muster::base
