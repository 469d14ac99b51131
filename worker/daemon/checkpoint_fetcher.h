#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/process_identity.h"

namespace muster::worker {

// Bytes that this user may still write on the folder's file system.
absl::StatusOr<int64_t> FreeBytes(const std::filesystem::path& folder);

// Brings a checkpoint from another worker's CheckpointServer into a job's output folder. Each fetch
// has a thread of its own; those into one folder run one after the other.
//
// The file comes under the name <file>.fetch.part, goes on where it was after a broken connection,
// also from another source, and is published as a trainer publishes its own: file, then description
// (<file>.json), so that a part never counts, then latest.pth, unless that is one that the job has
// written since. A fetch that fails leaves nothing. What arrives must be of the announced step,
// generation, digest and size and have the SHA-256 that the source tells. Thread-safe.
class CheckpointFetcher {
 public:
  struct Options {
    // A connection without a byte for so long is given up; and all of it when none of the sources
    // has given any for `patience`.
    absl::Duration silence = absl::Seconds(10);
    absl::Duration patience = absl::Seconds(20);
    absl::Duration pause = absl::Milliseconds(500);
    absl::Duration progress_interval = absl::Seconds(1);
    std::function<absl::StatusOr<int64_t>(const std::filesystem::path&)> free_bytes = FreeBytes;
  };
  struct Request {
    v1::Checkpoint checkpoint;
    std::string job_uid;
    // None: it waits until there are some.
    std::vector<v1::CheckpointServer> sources;
    // The job's output folder, which exists.
    std::filesystem::path folder;
  };
  struct Outcome {
    // OK: it is there, or none of the sources holds it (then they are all in `not_held_by`).
    // Cancelled; Unavailable with one line that names both nodes, or the folder, and the fix.
    absl::Status status;
    // Without "nodes/".
    std::vector<std::string> not_held_by;
  };
  // "fetching step_120.pth from nodes/b: 40 of 312 MB", at most once an interval.
  using OnProgress = std::function<void(const std::string& detail)>;
  using OnDone = std::function<void(const Outcome&)>;

  // One fetch under way. Its thread-safe calls return at once.
  class Fetch {
   public:
    explicit Fetch(Request request);
    const v1::Checkpoint& checkpoint() const { return request_.checkpoint; }
    // In place of those that it had.
    void SetSources(std::vector<v1::CheckpointServer> sources);
    // Ends it, and removes what has come. `done` is still called, unless it has been.
    void Cancel();

   private:
    friend class CheckpointFetcher;
    bool cancelled() const;
    std::vector<v1::CheckpointServer> sources() const;
    // Until it is cancelled or has other sources than `known` (true), or the time is over.
    bool WaitForChange(const std::vector<v1::CheckpointServer>& known,
                       absl::Duration longest) const;

    const Request request_;
    // Readable once it is cancelled.
    const UniqueFd stop_;
    mutable absl::Mutex mutex_;
    bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
    std::vector<v1::CheckpointServer> sources_ ABSL_GUARDED_BY(mutex_);
  };

  // `node` without "nodes/".
  CheckpointFetcher(std::string node, const base::Clock& clock)
      : CheckpointFetcher(std::move(node), clock, Options()) {}
  CheckpointFetcher(std::string node, const base::Clock& clock, Options options);
  // Cancels what is under way, whose callbacks come before it returns.
  ~CheckpointFetcher();
  CheckpointFetcher(const CheckpointFetcher&) = delete;
  CheckpointFetcher& operator=(const CheckpointFetcher&) = delete;

  // Both callbacks come from the fetch's thread; `done` once, as the last.
  std::shared_ptr<Fetch> Start(Request request, OnProgress on_progress, OnDone done);

 private:
  class Transfer;
  struct Work {
    std::thread thread;
    std::shared_ptr<Fetch> fetch;
    std::filesystem::path folder;
    bool finished = false;
  };

  Outcome Run(const Fetch& fetch, const OnProgress& on_progress) const;
  // The line for people.
  absl::Status Failed(const Fetch& fetch, const v1::CheckpointServer& source,
                      const absl::Status& reason) const;
  // Whether an earlier work has the folder.
  bool Waits(const Work& work) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string node_;
  const base::Clock& clock_;
  const Options options_;
  absl::Mutex mutex_;
  std::list<Work> works_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
