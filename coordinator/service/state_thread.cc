#include "coordinator/service/state_thread.h"

#include <utility>

#include "absl/synchronization/notification.h"

#include "common/base/log.h"

namespace muster::coordinator {
namespace {

constexpr absl::Duration kCommitRetry = absl::Milliseconds(200);
// Heartbeats and ticks wait for others for so long, so that thousands of workers do not wake the
// thread up for each of theirs. A lease counts from when its heartbeat came.
constexpr absl::Duration kHeartbeatPatience = absl::Milliseconds(5);

}  // namespace

StateThread::StateThread(const Deps& deps) : deps_(deps), thread_([this] { Run(); }) {}

StateThread::~StateThread() { Stop(); }

void StateThread::Push(Item item) {
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      item.now = Now();
      const Command* command = std::get_if<Command>(&item.what);
      urgent_ = urgent_ || command == nullptr ||
                !(std::holds_alternative<HeartbeatCommand>(*command) ||
                  std::holds_alternative<TickCommand>(*command));
      queue_.push_back(std::move(item));
      return;
    }
  }
  Drop(item);
}

void StateThread::Drop(const Item& item) {
  const absl::Status stopping = absl::UnavailableError("the coordinator is stopping; try again");
  if (const Records* records = std::get_if<Records>(&item.what)) records->stored(stopping);
  if (const Question* question = std::get_if<Question>(&item.what)) (*question)(nullptr, Now());
  if (item.done) {
    Effects effects;
    effects.reply = stopping;
    item.done(effects);
  }
}

void StateThread::Post(Command command, Done done) {
  Push(Item{std::move(command), std::move(done), {}});
}

void StateThread::Store(Writes writes, Stored done) {
  Push(Item{Records{std::move(writes), std::move(done)}, nullptr, {}});
}

void StateThread::Ask(Question question) { Push(Item{std::move(question), nullptr, {}}); }

void StateThread::AskAndWait(const Question& question) {
  absl::Notification answered;
  Ask([&](const ClusterState* state, Instant now) {
    question(state, now);
    answered.Notify();
  });
  answered.WaitForNotification();
}

void StateThread::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    urgent_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

Instant StateThread::Now() const { return Instant{deps_.clock->Now(), deps_.clock->Monotonic()}; }

void StateThread::Run() {
  // Keeps its memory from batch to batch.
  std::vector<Item> items;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](StateThread* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
            return self->stopping_ || !self->queue_.empty();
          },
          this));
      if (!stopping_) mutex_.AwaitWithTimeout(absl::Condition(&urgent_), kHeartbeatPatience);
      urgent_ = stopping_;
      items.swap(queue_);
      if (items.empty()) return;
    }
    Work(&items);
    items.clear();
  }
}

void StateThread::Work(std::vector<Item>* items) {
  Effects batch;
  std::vector<std::pair<const Done*, Effects>> replies;
  for (Item& item : *items) {
    if (auto* records = std::get_if<Records>(&item.what)) {
      batch.writes.Merge(std::move(records->writes));
    }
    auto* command = std::get_if<Command>(&item.what);
    if (command == nullptr) continue;
    deps_.state->ApplyInBatch(std::move(*command), item.now, &batch);
    if (!item.done) continue;
    Effects& reply = replies.emplace_back(&item.done, Effects()).second;
    reply.reply = std::move(batch.reply);
    reply.node_reply = std::move(batch.node_reply);
  }
  deps_.state->EndBatch(&batch);
  const bool committed = CommitWithRetries(batch.writes);
  deps_.state->TakeBackJobs(&batch.writes);
  if (!committed) {
    for (const Item& item : *items) Drop(item);
    return;
  }
  Release(&batch);
  for (const auto& [done, reply] : replies) (*done)(reply);
  PublishJobs(batch.changed_jobs, batch.writes.events);
  for (const Item& item : *items) {
    if (auto* records = std::get_if<Records>(&item.what)) records->stored(absl::OkStatus());
    if (auto* question = std::get_if<Question>(&item.what)) (*question)(deps_.state, Now());
  }
}

bool StateThread::CommitWithRetries(const Writes& writes) {
  bool reported = false;
  while (true) {
    const absl::Duration start = deps_.clock->Monotonic();
    const absl::Status status = deps_.store->Commit(writes);
    if (status.ok()) {
      if (!writes.empty()) deps_.observer->Committed(deps_.clock->Monotonic() - start);
      if (reported) base::Log(base::LogSeverity::kInfo, "coordinator", "the store works again");
      return true;
    }
    if (absl::IsAborted(status)) {
      Lose(status);
      return false;
    }
    if (!reported) {
      base::Log(base::LogSeverity::kError, "coordinator",
                "the store fails; requests wait until it works again",
                {{"error", std::string(status.message())}});
      reported = true;
    }
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kCommitRetry)) return false;
  }
}

void StateThread::Lose(const absl::Status& status) {
  if (told_lost_) return;
  told_lost_ = true;
  base::Log(base::LogSeverity::kError, "coordinator", "the store is lost; nothing is done any more",
            {{"error", std::string(status.message())}});
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (deps_.lost) deps_.lost();
}

void StateThread::Release(Effects* batch) {
  for (const LogLine& line : batch->log) {
    if (!line.job.empty()) {
      base::Log(line.severity, "coordinator", line.message, {{"job", line.job}});
    } else {
      base::Log(line.severity, "coordinator", line.message, {{"node", line.node}});
    }
  }
  deps_.observer->Applied(*batch);
  for (SessionMessage& message : batch->messages) {
    deps_.sessions->Send(message.session, std::move(message.message), message.close);
  }
}

void StateThread::PublishJobs(const std::set<std::string>& jobs,
                              const std::vector<v1::JobEvent>& events) {
  for (const std::string& name : jobs) {
    const v1::Job* job = deps_.watchers->Watched(name) ? deps_.state->FindJob(name) : nullptr;
    if (job == nullptr) continue;
    std::vector<v1::JobEvent> of_job;
    for (const v1::JobEvent& event : events) {
      if (event.job() == name) of_job.push_back(event);
    }
    deps_.watchers->Publish(*job, of_job);
  }
}

}  // namespace muster::coordinator
