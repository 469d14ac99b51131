#pragma once

#include <functional>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "coordinator/core/cluster_state.h"
#include "coordinator/service/job_watchers.h"
#include "coordinator/service/session_registry.h"
#include "coordinator/store/state_store.h"

namespace muster::coordinator {

// Told of each batch of commands after it is stored, on the state thread.
class EffectsObserver {
 public:
  virtual ~EffectsObserver() = default;
  virtual void Committed(absl::Duration commit_time) = 0;
  virtual void Applied(const Effects& effects) = 0;
};

// The one thread that owns ClusterState. Commands are applied in order; those that wait together
// are stored in one commit, and nothing of them is let out before it has returned: no reply, no
// message to a worker, no news to a watcher. While the store fails, it is tried again and
// everything waits.
class StateThread {
 public:
  struct Deps {
    ClusterState* state;
    StateStore* store;
    const base::Clock* clock;
    SessionRegistry* sessions;
    JobWatchers* watchers;
    EffectsObserver* observer;
    // Called once, on the state thread, when another coordinator has taken the store; everything is
    // dropped from then on, as after Stop. May be null.
    std::function<void()> lost = nullptr;
  };
  // Of the effects only `reply` and `node_reply` are there. After Stop, and for what Stop found
  // unfinished, it is called with an Unavailable reply.
  using Done = std::function<void(const Effects&)>;
  // The state is null after Stop.
  using Question = std::function<void(const ClusterState*, Instant)>;

  explicit StateThread(const Deps& deps);
  // Stops.
  ~StateThread();
  StateThread(const StateThread&) = delete;
  StateThread& operator=(const StateThread&) = delete;

  // `done` runs on the state thread; after Stop, at once.
  void Post(Command command, Done done = nullptr);
  // Stores records that ClusterState does not know of, in the order of the commands. `done` runs on
  // the state thread with OK; after Stop, at once with Unavailable.
  using Stored = std::function<void(const absl::Status&)>;
  void Store(Writes writes, Stored done);
  // Runs on the state thread, when all commands posted before are stored.
  void Ask(Question question);
  // Like Ask, and waits for it. Not from the state thread.
  void AskAndWait(const Question& question);
  // What was posted before is still done, if the store works.
  void Stop();

 private:
  struct Records {
    Writes writes;
    Stored stored;
  };
  struct Item {
    std::variant<Command, Question, Records> what;
    // Of a command.
    Done done;
    // When it came: a slow commit must not make what waited behind it look late.
    Instant now;
  };
  void Push(Item item);
  void Drop(const Item& item);
  void Run();
  void Work(std::vector<Item>* items);
  // False when stopping, or when the store was lost. Also with nothing to write: then whether this
  // coordinator may act.
  bool CommitWithRetries(const Writes& writes);
  void Lose(const absl::Status& status);
  void Release(Effects* batch);
  void PublishJobs(const std::set<std::string>& jobs, const std::vector<v1::JobEvent>& events);
  Instant Now() const;

  const Deps deps_;
  absl::Mutex mutex_;
  std::vector<Item> queue_ ABSL_GUARDED_BY(mutex_);
  // Something in the queue is to be done at once.
  bool urgent_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_lost_ = false;
  std::thread thread_;
};

}  // namespace muster::coordinator
