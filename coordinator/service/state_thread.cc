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
      urgent_ = urgent_ || !(std::holds_alternative<HeartbeatCommand>(item.command) ||
                             std::holds_alternative<TickCommand>(item.command));
      queue_.push_back(std::move(item));
      return;
    }
  }
  Drop(item);
}

void StateThread::Drop(const Item& item) {
  if (item.stored) item.stored(absl::UnavailableError("the coordinator is stopping; try again"));
  if (item.question) item.question(nullptr, Now());
  if (item.done) {
    Effects effects;
    effects.reply = absl::UnavailableError("the coordinator is stopping; try again");
    item.done(effects);
  }
}

void StateThread::Post(Command command, Done done) {
  Item item;
  item.command = std::move(command);
  item.done = std::move(done);
  Push(std::move(item));
}

void StateThread::Store(Writes writes, Stored done) {
  Item item;
  item.records = std::move(writes);
  item.stored = std::move(done);
  Push(std::move(item));
}

void StateThread::Ask(Question question) {
  Item item;
  item.question = std::move(question);
  Push(std::move(item));
}

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
  while (true) {
    std::vector<Item> items;
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
    Work(std::move(items));
  }
}

void StateThread::Work(std::vector<Item> items) {
  std::vector<std::pair<Effects, const Item*>> applied;
  Writes writes;
  for (Item& item : items) {
    if (item.stored) writes.Merge(std::move(item.records));
    if (item.question || item.stored) continue;
    applied.emplace_back(deps_.state->ApplyInBatch(item.command, item.now), &item);
    writes.Merge(std::move(applied.back().first.writes));
  }
  deps_.state->LendChangedJobs(&writes);
  const bool committed = CommitWithRetries(writes);
  deps_.state->TakeBackJobs(&writes);
  if (!committed) {
    for (const Item& item : items) Drop(item);
    return;
  }
  std::set<std::string> changed_jobs;
  for (auto& [effects, item] : applied) {
    Release(&effects, item->done);
    changed_jobs.insert(effects.changed_jobs.begin(), effects.changed_jobs.end());
  }
  PublishJobs(changed_jobs, writes.events);
  for (const Item& item : items) {
    if (item.stored) item.stored(absl::OkStatus());
    if (item.question) item.question(deps_.state, Now());
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

void StateThread::Release(Effects* effects, const Done& done) {
  for (const LogLine& line : effects->log) {
    if (!line.job.empty()) {
      base::Log(line.severity, "coordinator", line.message, {{"job", line.job}});
    } else {
      base::Log(line.severity, "coordinator", line.message, {{"node", line.node}});
    }
  }
  deps_.observer->Applied(*effects);
  for (SessionMessage& message : effects->messages) {
    deps_.sessions->Send(message.session, std::move(message.message), message.close);
  }
  if (done) done(*effects);
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
