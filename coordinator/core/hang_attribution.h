#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// What was found out about a generation of which no rank advances.
struct HangEvidence {
  struct Rank {
    int rank = 0;
    // "nodes/b"
    std::string node;
    // Of the rank's worker; null: nothing, and `unknown` says why.
    const v1::RankDiagnosis* diagnosis = nullptr;
    std::string unknown;
  };
  // A node that could not dial another one. Both with "nodes/".
  struct Link {
    std::string from;
    std::string to;
    std::string reason;
  };
  // Since the last sign of progress.
  absl::Duration stalled;
  // All of them, by rank.
  std::vector<Rank> ranks;
  std::vector<Link> unreachable;
};

enum class HangCause {
  // No culprit was found.
  kUnknown,
  // A rank's process is stopped, stuck in the kernel, or gone.
  kProcess,
  // Two nodes do not reach each other, or several do not reach one.
  kLink,
  // A rank waits for its images.
  kData,
  // A rank has not come to what the others wait for.
  kBehind,
};
// "process", ...: for metrics.
const char* CauseName(HangCause cause);

struct HangVerdict {
  HangCause cause = HangCause::kUnknown;
  // One line: "rank 1 on nodes/b made no step for 16 s: its process is stopped (state T); rank 0
  // waits for it in sync_bn all_gather 4711".
  std::string message;
  // -1: no single one.
  int rank = -1;
  // With "nodes/"; empty: no single one.
  std::string node;
  // The machine is at fault, or what runs on it: another one may do better.
  bool blames_node = false;
  // The culprit's, a frame a line.
  std::vector<std::string> stack;
};

// Names the culprit; the first of these that holds:
//   a rank whose process is stopped, or gone;
//   a link that does not carry a new connection, while the ranks' processes are there;
//   a rank whose process is stuck in the kernel (state D);
//   ranks that have not scheduled a collective which others have, and wait in none themselves: by
//   their stack they wait for data, or for something else;
//   the only rank of which nothing is known, while others wait in a collective;
//   a rank that is alone in its job.
// A collective's number in its group is equal on all ranks, as every rank calls them in one order.
HangVerdict AttributeHang(const HangEvidence& evidence);

}  // namespace muster::coordinator
