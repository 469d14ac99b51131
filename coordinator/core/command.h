#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "absl/time/time.h"

#include "muster/v1/checkpoint.pb.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// Now, by both of base::Clock's clocks. Leases count `monotonic`; records carry `wall`.
struct Instant {
  absl::Time wall;
  absl::Duration monotonic;
};

// Number of one worker's stream, unique in a run of the coordinator; never 0.
using SessionId = int64_t;

// Everything that can happen to the cluster. Ids come from outside: the core draws no random
// number.

struct CreateJobCommand {
  // name, uid, display_name, labels and a config that is filled and valid.
  v1::Job job;
  // Empty: not deduplicated.
  std::string request_id;
  // The request without request_id, to tell a repeated request from another one with its id.
  std::string request_body;
  // Who asks, as authenticated; empty without authentication. Likewise below.
  std::string actor;
};

struct CancelJobCommand {
  std::string name;
  std::string reason;
  std::string actor;
};

// Nodes are named with "nodes/" here.
struct CordonNodeCommand {
  std::string name;
  std::string reason;
  // Also moves its jobs away.
  bool drain = false;
  std::string actor;
};

// Ends a cordon, a drain and a setting aside.
struct UncordonNodeCommand {
  std::string name;
  std::string actor;
};

struct WorkerHelloCommand {
  SessionId session = 0;
  v1::Hello hello;
};

struct HeartbeatCommand {
  SessionId session = 0;
  v1::Heartbeat heartbeat;
};

struct AckCommand {
  SessionId session = 0;
  v1::Ack ack;
};

struct AllocationStatusCommand {
  SessionId session = 0;
  v1::AllocationStatus status;
};

struct CheckpointCommand {
  SessionId session = 0;
  v1::Checkpoint checkpoint;
};

struct EvaluationCommand {
  SessionId session = 0;
  v1::EvaluationReport report;
};

struct MaintenanceCommand {
  SessionId session = 0;
  v1::Maintenance maintenance;
};

struct DiagnosisCommand {
  SessionId session = 0;
  v1::Diagnosis diagnosis;
};

struct SessionClosedCommand {
  SessionId session = 0;
};

// Time has passed: leases may have run out. To be applied several times in a heartbeat interval.
struct TickCommand {};

using Command =
    std::variant<CreateJobCommand, CancelJobCommand, CordonNodeCommand, UncordonNodeCommand,
                 WorkerHelloCommand, HeartbeatCommand, AckCommand, AllocationStatusCommand,
                 CheckpointCommand, EvaluationCommand, MaintenanceCommand, DiagnosisCommand,
                 SessionClosedCommand, TickCommand>;

}  // namespace muster::coordinator
