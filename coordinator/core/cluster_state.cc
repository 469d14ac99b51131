#include "coordinator/core/cluster_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "coordinator/core/timestamps.h"

namespace muster::coordinator {

ClusterState::ClusterState(const Options& options, Snapshot stored, Instant now)
    : options_(options), leases_(options.lease), now_(now) {
  for (internal::NodeRecord& record : stored.nodes) {
    NodeEntry& node = Entry(record.name());
    leases_.GrantGrace(record.name(), options.recovery_grace, now.monotonic);
    node.record = std::move(record);
    pool_.Describe(node.index, node.record.inventory());
    const std::string& machine = node.record.inventory().machine_id();
    if (!machine.empty()) machines_[machine].insert(node.record.name());
    ResumeFreezes(&node, now);
    MarkDirty(&node);
  }
  for (internal::JobRecord& record : stored.jobs) {
    const std::string name = record.job().name();
    const int64_t sequence = record.submit_sequence();
    next_submission_ = std::max(next_submission_, sequence + 1);
    shares_.Charge(record.job().creator(),
                   DecayedUse(record.use(), now.wall - FromTimestamp(record.job().update_time())),
                   now.wall);
    JobMachine& job = jobs_.emplace(name, JobMachine(std::move(record), now)).first->second;
    Effects effects;
    Step step{now, effects};
    UpdateQueue(&job, &step);
    UpdateHoldings(&job, &step);
    UpdateFetch(job);
  }
  for (internal::RequestRecord& record : stored.requests) {
    const std::string id = record.request_id();
    request_expiry_.insert({FromTimestamp(record.expire_time()), id});
    requests_[id] = std::move(record);
  }
  for (v1::JobEvent& event : stored.events) events_.Add(std::move(event));
}

Effects ClusterState::Apply(const Command& command, Instant now) {
  Effects effects;
  ApplyInBatch(Command(command), now, &effects);
  TellNodes(&effects);
  for (const std::string& name : changed_jobs_) {
    effects.writes.jobs[name] = jobs_.at(name).record();
  }
  changed_jobs_.clear();
  return effects;
}

void ClusterState::EndBatch(Effects* batch) {
  TellNodes(batch);
  for (const std::string& name : changed_jobs_) {
    jobs_.at(name).SwapRecord(&batch->writes.jobs[name]);
  }
}

void ClusterState::TakeBackJobs(Writes* writes) {
  for (auto& [name, record] : writes->jobs) jobs_.at(name).SwapRecord(&record);
  changed_jobs_.clear();
}

void ClusterState::ApplyInBatch(Command&& command, Instant now, Effects* batch) {
  now_ = now;
  shown_.clear();
  batch->reply.reset();
  batch->node_reply.reset();
  Step step{now, *batch};
  std::visit([&](auto& specific) { Handle(specific, &step); }, command);
  if (step.schedule) Schedule(&step);
  RefreshPool(&step);
  for (const std::string& name : step.maintenance_to_approve) {
    ApproveMaintenance(&Node(name), &step);
  }
  OutdateDesiredState(step);
}

JobMachine* ClusterState::Find(const std::string& name) {
  auto it = jobs_.find(name);
  return it == jobs_.end() ? nullptr : &it->second;
}

ClusterState::NodeEntry& ClusterState::Entry(const std::string& name) {
  NodeEntry*& node = nodes_by_name_[name];
  if (node == nullptr) {
    node = &nodes_[name];
    node->index = pool_.Index(name);
    node->record.set_name(name);
  }
  return *node;
}

void ClusterState::MarkDirty(NodeEntry* node) {
  if (std::exchange(node->dirty, true)) return;
  dirty_nodes_.push_back(node);
}

void ClusterState::RecordEvent(v1::JobEvent event, Step* step) {
  event.set_sequence(events_.newest() + 1);
  step->effects.log.push_back(
      LogLine{event.type() == "Failed" ? base::LogSeverity::kError : base::LogSeverity::kInfo,
              absl::StrCat(event.type(), event.message().empty() ? "" : ": ", event.message()),
              event.job(), std::string(absl::StripPrefix(event.node(), "nodes/"))});
  events_.Add(event);
  step->effects.writes.events.push_back(std::move(event));
}

void ClusterState::RecordNodeEvent(const NodeEntry& node, const std::string& type,
                                   const std::string& message, const std::string& actor,
                                   Step* step) {
  v1::JobEvent event;
  *event.mutable_time() = ToTimestamp(step->now.wall);
  event.set_type(type);
  event.set_message(message);
  event.set_node(absl::StrCat("nodes/", node.record.name()));
  event.set_actor(actor);
  RecordEvent(std::move(event), step);
}

void ClusterState::Drive(JobMachine* job, Step* step, absl::FunctionRef<void(JobOutput*)> input) {
  JobOutput out;
  input(&out);
  const std::string& name = job->job().name();
  for (v1::JobEvent& event : out.events) RecordEvent(std::move(event), step);
  if (out.persist) changed_jobs_.insert(name);
  if (out.changed || out.persist) step->effects.changed_jobs.insert(name);
  if (!out.hang_cause.empty()) step->effects.hangs.push_back(out.hang_cause);
  if (out.queue_wait.has_value()) step->effects.queue_waits.push_back(*out.queue_wait);
  for (const StateChange& change : out.state_changes) step->effects.state_changes.push_back(change);
  if (out.slot_seconds > 0) {
    shares_.Charge(job->job().creator(), out.slot_seconds, step->now.wall);
  }
  if (!out.state_changes.empty()) UpdateQueue(job, step);
  if (out.holdings_changed) UpdateHoldings(job, step);
  UpdateFetch(*job);
  live_.SetEnd(job->record().submit_sequence(), job->ExpectedEnd(step->now));
  if (out.desired_changed) {
    for (const internal::ShareRecord& share : job->record().shares()) {
      step->nodes_to_tell.push_back(&Node(share.node()));
    }
  }
  if (!out.blamed_node.empty()) {
    NoteFailureOn(std::string(absl::StripPrefix(out.blamed_node, "nodes/")), *job, step);
  }
}

void ClusterState::UpdateQueue(JobMachine* job, Step* step) {
  const int64_t sequence = job->record().submit_sequence();
  index_.Put(sequence, job, job->job().state());
  positions_.clear();
  waiting_after_failure_.erase(sequence);
  if (job->job().state() != v1::Job::STATE_QUEUED) {
    queue_.Erase(sequence);
    NoteFinished(*job);
    return;
  }
  step->schedule = true;
  if (job->record().has_not_before()) waiting_after_failure_.insert(sequence);
  queue_.Insert(QueuedJob{sequence, job, job->priority(), job->job().creator(), job->gang(),
                          job->NotBefore(), job->ExpectedRunTime(step->now)});
}

void ClusterState::UpdateHoldings(JobMachine* job, Step* step) {
  const std::string& name = job->job().name();
  const int64_t sequence = job->record().submit_sequence();
  const int before = live_.SlotsOf(sequence);
  LiveJob live;
  for (const internal::ShareRecord& share : job->record().shares()) {
    NodeEntry& node = Entry(share.node());
    const int slots = job->SlotsHeld(share);
    MarkDirty(&node);
    if (slots > 0) {
      node.jobs[name] = slots;
      live.held.push_back({node.index, slots});
    } else if (node.jobs.erase(name) > 0) {
      step->schedule = true;
    }
  }
  if (job->Live()) {
    live.sequence = sequence;
    live.name = name;
    live.priority = job->priority();
    live.may_preempt = job->Wanted() && job->preemptible();
    live.may_grow = job->Wanted() && job->record().shares_size() < job->gang().max_nodes;
    live.stopping = !job->Wanted();
    live.placed = FromTimestamp(job->record().place_time());
    live.end = job->ExpectedEnd(step->now);
    live_.Put(std::move(live));
  } else {
    live_.Erase(sequence);
  }
  shares_.AddHeld(job->job().creator(), live_.SlotsOf(sequence) - before);
}

void ClusterState::Handle(CreateJobCommand& command, Step* step) {
  if (!command.request_id.empty()) {
    auto it = requests_.find(command.request_id);
    if (it != requests_.end() && FromTimestamp(it->second.expire_time()) > step->now.wall) {
      if (it->second.body() != command.request_body) {
        step->effects.reply = absl::InvalidArgumentError(absl::StrCat(
            "request_id ", command.request_id, " was used for another request, which made ",
            it->second.job(), "; send a new request_id"));
        return;
      }
      if (const v1::Job* job = FindJob(it->second.job()); job != nullptr) {
        step->effects.reply = *job;
        return;
      }
    }
  }
  const std::string name = command.job.name();
  if (jobs_.count(name) > 0) {
    step->effects.reply =
        absl::AlreadyExistsError(absl::StrCat(name, " exists already; choose another job_id"));
    return;
  }
  const int64_t sequence = next_submission_++;
  internal::JobRecord record = JobMachine::NewRecord(std::move(command.job), sequence, step->now);
  record.mutable_job()->set_creator(command.actor);
  JobMachine& job = jobs_.emplace(name, JobMachine(std::move(record), step->now)).first->second;
  Drive(&job, step, [&](JobOutput* out) {
    out->persist = true;
    out->state_changes.push_back(StateChange{v1::Job::STATE_UNSPECIFIED, v1::Job::STATE_QUEUED});
    v1::JobEvent event;
    *event.mutable_time() = ToTimestamp(step->now.wall);
    event.set_job(name);
    event.set_type("Submitted");
    event.set_actor(command.actor);
    const Gang& gang = job.gang();
    event.set_message(absl::StrCat(gang.nodes * gang.ranks_per_node, " ranks on ", gang.nodes,
                                   gang.nodes == 1 ? " node" : " nodes"));
    out->events.push_back(std::move(event));
  });
  if (!command.request_id.empty()) {
    internal::RequestRecord request;
    request.set_request_id(command.request_id);
    request.set_body(command.request_body);
    request.set_job(name);
    const absl::Time expiry = step->now.wall + options_.request_retention;
    *request.mutable_expire_time() = ToTimestamp(expiry);
    request_expiry_.insert({expiry, command.request_id});
    requests_[command.request_id] = request;
    step->effects.writes.expired_requests.erase(command.request_id);
    step->effects.writes.requests[command.request_id] = std::move(request);
  }
  // Now, not at the end of the step, so that the reply tells where the job stands.
  Schedule(step);
  step->schedule = false;
  step->effects.reply = Shown(job, /*with_position=*/false);
}

void ClusterState::Handle(const CancelJobCommand& command, Step* step) {
  JobMachine* job = Find(command.name);
  if (job == nullptr) {
    step->effects.reply = absl::NotFoundError(absl::StrCat("there is no ", command.name));
    return;
  }
  if (job->Terminal()) {
    step->effects.reply = absl::FailedPreconditionError(
        absl::StrCat(command.name, " has ended already: ",
                     absl::StripPrefix(v1::Job::State_Name(job->job().state()), "STATE_")));
    return;
  }
  Drive(job, step,
        [&](JobOutput* out) { job->Cancel(command.reason, command.actor, step->now, out); });
  step->effects.reply = job->job();
}

}  // namespace muster::coordinator
