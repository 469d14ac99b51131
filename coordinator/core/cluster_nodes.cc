// The part of ClusterState that listens to workers.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

using v1::AllocationStatus;

bool GoodNodeName(const std::string& name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

bool HasProcesses(AllocationStatus::Phase phase) {
  return phase == AllocationStatus::PHASE_STARTING || phase == AllocationStatus::PHASE_RUNNING;
}

SessionMessage Farewell(SessionId session, const std::string& reason, bool retry) {
  SessionMessage message;
  message.session = session;
  message.message.mutable_goodbye()->set_reason(reason);
  message.message.mutable_goodbye()->set_retry(retry);
  message.close = true;
  return message;
}

}  // namespace

void ClusterState::EndSession(NodeEntry* node, const std::string& reason, bool retry, Step* step) {
  if (node->session == 0) return;
  sessions_.erase(node->session);
  step->effects.messages.push_back(Farewell(node->session, reason, retry));
  node->session = 0;
}

void ClusterState::TakeInventory(NodeEntry* node, const v1::Hello& hello, Step* step) {
  internal::NodeRecord record = node->record;
  record.set_name(hello.node());
  record.set_node_uid(hello.node_uid());
  *record.mutable_inventory() = hello.inventory();
  if (node->record.node_uid() != hello.node_uid()) {
    *record.mutable_join_time() = ToTimestamp(step->now.wall);
  }
  if (record.SerializeAsString() != node->record.SerializeAsString()) {
    step->effects.writes.nodes[hello.node()] = record;
  }
  const std::string& machine = record.inventory().machine_id();
  machines_[node->record.inventory().machine_id()].erase(hello.node());
  if (!machine.empty()) machines_[machine].insert(hello.node());
  // Peers that are about to dial it learn its new address.
  if (node->record.inventory().probe_address() != record.inventory().probe_address()) {
    for (const auto& [job, slots] : node->jobs) {
      for (const std::string& peer : Find(job)->Nodes()) {
        step->nodes_to_tell.push_back(&Node(peer));
      }
    }
  }
  node->record = std::move(record);
  pool_.Describe(node->index, node->record.inventory());
  MarkDirty(node);
}

void ClusterState::Handle(const WorkerHelloCommand& command, Step* step) {
  const v1::Hello& hello = command.hello;
  const std::string& name = hello.node();
  auto refuse = [&](const std::string& reason, bool retry) {
    step->effects.messages.push_back(Farewell(command.session, reason, retry));
    step->effects.log.push_back(
        LogLine{base::LogSeverity::kWarning, absl::StrCat("worker refused: ", reason), "", name});
  };
  if (!GoodNodeName(name)) {
    refuse(absl::StrCat("'", name, "' is no node name; use 1 to 63 letters, digits, '-', '_', '.'"),
           false);
    return;
  }
  if (hello.protocol_version() < kOldestProtocolVersion) {
    refuse(absl::StrCat("this coordinator speaks protocol versions ", kOldestProtocolVersion,
                        " to ", kProtocolVersion, ", the worker ", hello.protocol_version(),
                        "; install a newer release of the worker"),
           false);
    return;
  }
  // The release after ours still speaks our version; what comes after that need not.
  if (hello.protocol_version() > kProtocolVersion + 1) {
    refuse(absl::StrCat("this coordinator speaks protocol versions ", kOldestProtocolVersion,
                        " to ", kProtocolVersion, ", the worker ", hello.protocol_version(),
                        "; install a newer release of the coordinator first"),
           false);
    return;
  }
  NodeEntry& node = Entry(name);
  const bool other_worker =
      !node.record.node_uid().empty() && node.record.node_uid() != hello.node_uid();
  if (other_worker && node.state != v1::Node::STATE_LOST) {
    const v1::Inventory& holder = node.record.inventory();
    refuse(absl::StrCat("the name ", name, " is held by another worker (host ", holder.hostname(),
                        ", address ", holder.address(), "); start this one with another --name"),
           node.session == 0);
    return;
  }
  if (node.session != 0) {
    // Two daemons over one state folder would otherwise throw each other out for ever.
    EndSession(&node, "a newer connection of the same worker has taken over",
               node.instance == hello.instance(), step);
  }
  const bool restarted = !node.instance.empty() && node.instance != hello.instance();
  const bool joins = node.record.node_uid() != hello.node_uid() ||
                     node.state == v1::Node::STATE_LOST || !node.record.has_join_time();
  node.session = command.session;
  sessions_[command.session] = &node;
  node.instance = hello.instance();
  node.protocol = std::min(hello.protocol_version(), kProtocolVersion);
  TakeInventory(&node, hello, step);
  // Announced for another machine, which had the name before.
  if (other_worker && !node.record.maintenance().empty()) TakeMaintenance(&node, {}, step);
  TakeCheckpointServer(&node, hello, step);
  leases_.Renew(name, step->now.monotonic);
  node.last_heard_wall = step->now.wall;
  node.state = v1::Node::STATE_READY;
  node.leftovers.clear();
  node.refuses = false;
  node.knows_maintenance = false;
  node.approved.clear();
  const std::string with = absl::StrCat("with ", hello.inventory().slots(), " slots");
  if (joins) {
    RecordNodeEvent(node, "NodeJoined", with, "", step);
  } else {
    step->effects.log.push_back(
        LogLine{base::LogSeverity::kInfo, absl::StrCat("worker is back ", with), "", name});
  }

  SessionMessage welcome;
  welcome.session = command.session;
  welcome.message.mutable_welcome()->set_protocol_version(node.protocol);
  *welcome.message.mutable_welcome()->mutable_heartbeat_interval() =
      ToProto(options_.lease.heartbeat_interval);
  *welcome.message.mutable_welcome()->mutable_lease() = ToProto(options_.lease.lost_after);
  step->effects.messages.push_back(std::move(welcome));

  std::set<std::string> unheld;
  for (const auto& [job, slots] : node.jobs) unheld.insert(job);
  for (const AllocationStatus& status : hello.allocations()) {
    JobMachine* job = Find(status.job());
    if (job != nullptr && job->job().generation() == status.generation()) {
      unheld.erase(status.job());
    }
    ApplyStatus(&node, status, step);
  }
  for (const std::string& job_name : unheld) {
    JobMachine* job = Find(job_name);
    Drive(job, step, [&](JobOutput* out) { job->NotHeld(name, restarted, step->now, out); });
  }
  step->nodes_to_tell.push_back(&node);
  step->schedule = true;
}

void ClusterState::ApplyStatus(NodeEntry* node, const AllocationStatus& status, Step* step) {
  const std::string& name = node->record.name();
  JobMachine* job = Find(status.job());
  if (job != nullptr) {
    if (status.phase() == AllocationStatus::PHASE_STOPPED &&
        job->job().generation() == status.generation() && job->WantedOn(name)) {
      node->refuses = true;
      MarkDirty(node);
    }
    Drive(job, step, [&](JobOutput* out) {
      if (status.has_progress()) {
        v1::JobProgress progress;
        progress.set_generation(status.generation());
        *progress.mutable_progress() = status.progress();
        job->ReportProgress(name, progress, options_.progress_persist_interval, step->now, out);
      }
      job->Report(
          name, status, [this](const std::string& other) { return ReachOf(other); }, step->now,
          out);
    });
  }
  const std::pair<std::string, int64_t> key(status.job(), status.generation());
  const bool held =
      job != nullptr && job->job().generation() == status.generation() && job->SlotsHeld(name) > 0;
  if (held || !HasProcesses(status.phase())) {
    if (node->leftovers.erase(key) > 0) {
      MarkDirty(node);
      step->schedule = true;
    }
    return;
  }
  // The desired state does not name it, so the worker is ending it; its slots are not free before.
  if (node->leftovers.emplace(key, Leftover{status.ranks_size(), false}).second) {
    MarkDirty(node);
    step->nodes_to_tell.push_back(node);
  }
}

ClusterState::NodeEntry* ClusterState::Heard(SessionId session, Step* step) {
  auto it = sessions_.find(session);
  if (it == sessions_.end()) return nullptr;
  NodeEntry& node = *it->second;
  const std::string& name = node.record.name();
  leases_.Renew(name, step->now.monotonic);
  node.last_heard_wall = step->now.wall;
  if (node.state == v1::Node::STATE_UNREACHABLE) {
    node.state = v1::Node::STATE_READY;
    MarkDirty(&node);
    step->schedule = true;
    step->effects.log.push_back(LogLine{base::LogSeverity::kInfo, "node is heard again", "", name});
  }
  return &node;
}

void ClusterState::Handle(const HeartbeatCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  if (node == nullptr) return;
  const std::string& name = node->record.name();
  for (const v1::RankProgress& progress : command.heartbeat.ranks()) {
    if (JobMachine* job = Find(progress.job()); job != nullptr) {
      Drive(job, step,
            [&](JobOutput* out) { job->ReportRankStep(name, progress, step->now, out); });
    }
  }
  for (const v1::JobProgress& progress : command.heartbeat.jobs()) {
    if (JobMachine* job = Find(progress.job()); job != nullptr) {
      Drive(job, step, [&](JobOutput* out) {
        job->ReportProgress(name, progress, options_.progress_persist_interval, step->now, out);
      });
    }
  }
}

void ClusterState::Handle(const AckCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  if (node == nullptr || command.ack.version() != node->desired_version) return;
  const std::string& name = node->record.name();
  const std::string& error = command.ack.error();
  node->acknowledged_version = command.ack.version();
  if (!node->leftovers.empty()) {
    MarkDirty(node);
    step->schedule = true;
  }
  for (auto it = node->leftovers.begin(); it != node->leftovers.end();) {
    it = it->second.only_prepared && error.empty() ? node->leftovers.erase(it) : std::next(it);
  }
  if (!error.empty()) {
    node->refuses = true;
    MarkDirty(node);
    step->effects.log.push_back(LogLine{base::LogSeverity::kError,
                                        absl::StrCat("desired state refused: ", error), "", name});
  }
  std::vector<JobMachine*> jobs;
  for (const auto& [job_name, slots] : node->jobs) {
    JobMachine* job = Find(job_name);
    // Nearly all acknowledgements are of jobs that go on as they are.
    if (!error.empty() || !job->Wanted()) jobs.push_back(job);
  }
  for (JobMachine* job : jobs) {
    Drive(job, step, [&](JobOutput* out) {
      if (error.empty()) {
        job->Acknowledged(name, step->now, out);
      } else {
        job->Refused(name, error, step->now, out);
      }
    });
  }
}

void ClusterState::Handle(const AllocationStatusCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  if (node != nullptr) ApplyStatus(node, command.status, step);
}

void ClusterState::Handle(const CheckpointCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  JobMachine* job = node == nullptr ? nullptr : Find(command.checkpoint.job());
  if (job == nullptr) return;
  Drive(job, step, [&](JobOutput* out) {
    job->AddCheckpoint(node->record.name(), command.checkpoint, step->now, out);
  });
}

void ClusterState::Handle(const EvaluationCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  JobMachine* job = node == nullptr ? nullptr : Find(command.report.job());
  if (job == nullptr) return;
  Drive(job, step, [&](JobOutput* out) { job->AddEvaluation(command.report, step->now, out); });
}

void ClusterState::Handle(const SessionClosedCommand& command, Step* step) {
  auto it = sessions_.find(command.session);
  if (it == sessions_.end()) return;
  NodeEntry& node = *it->second;
  node.session = 0;
  node.state = v1::Node::STATE_UNREACHABLE;
  MarkDirty(&node);
  step->schedule = true;
  step->effects.log.push_back(LogLine{base::LogSeverity::kWarning,
                                      "node is unreachable: its stream ended", "",
                                      node.record.name()});
  sessions_.erase(it);
}

}  // namespace muster::coordinator
