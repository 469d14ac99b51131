#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#include "worker/daemon/trainer_launcher.h"

namespace muster::worker {

// Starts nothing: the test ends ranks, by their folder's name ("rank-0"), and sees what was asked
// for.
class FakeTrainerLauncher : public TrainerLauncher {
 public:
  absl::StatusOr<std::unique_ptr<TrainerProcess>> Launch(const LaunchSpec& spec,
                                                         ExitCallback on_exit) override {
    absl::MutexLock lock(&mutex_);
    specs_.push_back(spec);
    return Add(spec.folder, std::move(on_exit));
  }

  absl::StatusOr<std::unique_ptr<TrainerProcess>> Adopt(const std::filesystem::path& folder,
                                                        ExitCallback on_exit) override {
    absl::MutexLock lock(&mutex_);
    if (!std::filesystem::exists(folder)) return absl::NotFoundError("no trainer was started");
    return Add(folder, std::move(on_exit));
  }

  // Ends the rank in the folder of this name that was started last.
  void End(const std::string& name, const RankExit& exit) {
    ExitCallback on_exit;
    {
      absl::MutexLock lock(&mutex_);
      on_exit = std::move(callbacks_.at(name));
      callbacks_.erase(name);
    }
    on_exit(exit);
  }

  std::vector<LaunchSpec> specs() const {
    absl::MutexLock lock(&mutex_);
    return specs_;
  }
  std::vector<int> signals(const std::string& name) const {
    absl::MutexLock lock(&mutex_);
    const auto it = signals_.find(name);
    return it != signals_.end() ? it->second : std::vector<int>();
  }

 private:
  class FakeProcess : public TrainerProcess {
   public:
    FakeProcess(FakeTrainerLauncher& launcher, std::string name)
        : launcher_(launcher), name_(std::move(name)) {}
    void Signal(int signal) override {
      absl::MutexLock lock(&launcher_.mutex_);
      launcher_.signals_[name_].push_back(signal);
    }

   private:
    FakeTrainerLauncher& launcher_;
    const std::string name_;
  };

  std::unique_ptr<TrainerProcess> Add(const std::filesystem::path& folder, ExitCallback on_exit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const std::string name = folder.filename().string();
    callbacks_[name] = std::move(on_exit);
    return std::make_unique<FakeProcess>(*this, name);
  }

  mutable absl::Mutex mutex_;
  std::vector<LaunchSpec> specs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, ExitCallback> callbacks_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::vector<int>> signals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
