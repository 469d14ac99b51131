#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

// What workers say to each other when one looks whether it can reach the other: one line each way.
// Both sides refuse any other text, and no line is longer than kMostProbeBytes.
namespace muster::worker {

inline constexpr size_t kMostProbeBytes = 512;

// The dialler's line.
struct ProbeRequest {
  // The generation that the dial is for, for example "jobs/a" and 3.
  std::string job;
  int64_t generation = 0;
  // Of 32 hexadecimal digits, drawn for this dial.
  std::string nonce;
  // The interface to be reached; empty: the one that was dialled.
  std::string interface;
};

// The answer: what was asked for, said again, and where to dial next.
struct ProbeAnswer {
  // Who answers, without "nodes/".
  std::string node;
  std::string job;
  int64_t generation = 0;
  std::string nonce;
  std::string ip;
  // Of the ephemeral range, listened to until the dialler hangs up: they echo the line "nonce".
  std::vector<int> ports;
  // Set in place of ip and ports: why there is nothing to dial.
  std::string error;
};

// With the newline.
std::string ToLine(const ProbeRequest& request);
std::string ToLine(const ProbeAnswer& answer);

// Of a line without its newline; InvalidArgument for anything else.
absl::StatusOr<ProbeRequest> ParseProbeRequest(const std::string& line);
absl::StatusOr<ProbeAnswer> ParseProbeAnswer(const std::string& line);

}  // namespace muster::worker
