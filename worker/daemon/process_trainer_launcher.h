#pragma once

#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "worker/daemon/process_identity.h"
#include "worker/daemon/trainer_launcher.h"

namespace muster::worker {

// Real processes, each behind a shim (shim.h), watched by one thread through pidfds. A shim that
// was killed takes its trainer with it; the rank then counts as killed by SIGKILL if that happened
// while it was watched here.
class ProcessTrainerLauncher : public TrainerLauncher {
 public:
  // `shim_command`: the words that start the shim, for example {"/proc/self/exe", "shim"}.
  ProcessTrainerLauncher(std::vector<std::string> shim_command, const base::Clock& clock);
  // Stops watching: no callback comes after it. What runs goes on running.
  ~ProcessTrainerLauncher() override;

  absl::StatusOr<std::unique_ptr<TrainerProcess>> Launch(const LaunchSpec& spec,
                                                         ExitCallback on_exit) override;
  absl::StatusOr<std::unique_ptr<TrainerProcess>> Adopt(const std::filesystem::path& folder,
                                                        ExitCallback on_exit) override;

 private:
  struct Watch {
    std::filesystem::path folder;
    ProcessIdentity shim;
    // Invalid when the shim had ended before it could be watched.
    UniqueFd pidfd;
    ExitCallback on_exit;
  };

  std::unique_ptr<TrainerProcess> Add(Watch watch);
  void Run();
  void Finish(Watch watch);
  void Wake();

  const std::vector<std::string> shim_command_;
  const base::Clock& clock_;
  UniqueFd wake_;
  absl::Mutex mutex_;
  std::vector<Watch> added_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace muster::worker
