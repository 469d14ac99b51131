#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/log.h"
#include "coordinator/core/command.h"
#include "muster/internal/coordinator_store.pb.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/worker_service.pb.h"

namespace muster::coordinator {

// Records to be stored, all or none. Later versions of a record replace earlier ones.
struct Writes {
  // By name ("jobs/x"; nodes without "nodes/").
  std::map<std::string, internal::JobRecord> jobs;
  std::map<std::string, internal::NodeRecord> nodes;
  std::map<std::string, internal::RequestRecord> requests;
  std::set<std::string> expired_requests;
  // By id.
  std::map<std::string, internal::TokenRecord> tokens;
  std::set<std::string> expired_tokens;
  // Removed with their events, before anything else is written.
  std::set<std::string> expired_jobs;
  std::vector<v1::JobEvent> events;

  bool empty() const {
    return jobs.empty() && nodes.empty() && requests.empty() && expired_requests.empty() &&
           events.empty() && tokens.empty() && expired_tokens.empty() && expired_jobs.empty();
  }
  void Merge(Writes later);
};

// What the event is kept with: its job, or else its node; "" when it has neither.
const std::string& EventSubject(const v1::JobEvent& event);

// All that is stored: what a coordinator starts from.
struct Snapshot {
  std::vector<internal::JobRecord> jobs;
  std::vector<internal::NodeRecord> nodes;
  std::vector<internal::RequestRecord> requests;
  std::vector<internal::TokenRecord> tokens;
  // In order of sequence.
  std::vector<v1::JobEvent> events;
};

// To one worker. With `close` its stream ends after the message.
struct SessionMessage {
  SessionId session = 0;
  v1::CoordinatorMessage message;
  bool close = false;
};

struct StateChange {
  v1::Job::State from = v1::Job::STATE_UNSPECIFIED;
  v1::Job::State to = v1::Job::STATE_UNSPECIFIED;
};

struct LogLine {
  base::LogSeverity severity = base::LogSeverity::kInfo;
  std::string message;
  std::string job;
  std::string node;
};

// What a command brings about. Nothing of it may leave the coordinator before `writes` is stored.
struct Effects {
  Writes writes;
  std::vector<SessionMessage> messages;
  // Answers CreateJobCommand and CancelJobCommand.
  std::optional<absl::StatusOr<v1::Job>> reply;
  // Answers CordonNodeCommand and UncordonNodeCommand.
  std::optional<absl::StatusOr<v1::Node>> node_reply;
  // Jobs that somebody who watches them sees changed.
  std::set<std::string> changed_jobs;
  std::vector<StateChange> state_changes;
  // Of the jobs placed now: how long they waited.
  std::vector<absl::Duration> queue_waits;
  int node_losses = 0;
  // Of generations that were ended because no rank advanced: why (CauseName).
  std::vector<std::string> hangs;
  std::vector<LogLine> log;
};

}  // namespace muster::coordinator
