#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/process_identity.h"

namespace muster::worker {

// A worker's --state-dir, which only one daemon at a time may use:
//
//   lock, node_uid, node_token
//   jobs/<job>-<first 8 of the job's uid>/
//     output/                      checkpoints, metrics.jsonl, results_N.json, config.textproto
//     generations/<generation>/
//       allocation.textproto       there while the generation is not over: what a restarted daemon
//                                  adopts
//       rank-<rank>/               rank_files.h
//   trash/                         what is being removed
//
// Thread-safe: nothing but the disk changes.
class StateFolder {
 public:
  // Makes what is missing and takes the lock. AlreadyExists when another daemon holds it.
  static absl::StatusOr<StateFolder> Open(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return path_; }
  // Random, made with the folder.
  const std::string& node_uid() const { return node_uid_; }

  std::filesystem::path OutputFolder(const v1::Allocation& allocation) const;
  std::filesystem::path RankFolder(const v1::Allocation& allocation, int rank) const;

  absl::Status WriteRecord(const v1::Allocation& allocation) const;
  absl::Status RemoveRecord(const v1::Allocation& allocation) const;
  // All records; unreadable ones are logged and left out.
  std::vector<v1::Allocation> ReadRecords() const;

  // The folder of a rank of "jobs/{job}" in `generation`, 0: the newest that this node has of it.
  // NotFound when there is none. `found_generation` gets the generation.
  absl::StatusOr<std::filesystem::path> FindRankFolder(const std::string& job, int64_t generation,
                                                       int rank, int64_t* found_generation) const;

  // One job's files.
  struct JobFolder {
    // "jobs/{job}", and the first 8 characters of its uid.
    std::string job;
    std::string uid;
    std::filesystem::path path;
    // Of all that is in it.
    int64_t bytes = 0;
    absl::Time last_write;
    // In order.
    std::vector<int64_t> generations;
    // A generation is not over.
    bool has_record = false;
  };
  std::vector<JobFolder> ListJobs() const;
  // Both make it vanish at once, and then free the space. A generation that is not over stays
  // (FailedPrecondition).
  absl::Status RemoveJob(const JobFolder& folder) const;
  absl::Status RemoveGeneration(const JobFolder& folder, int64_t generation) const;
  // What an earlier daemon did not get to.
  void RemoveTrash() const;

  // Where the trainers reach the daemon: trainer.sock, or, where that path is too long for a unix
  // socket, a path in the system's folder for temporary files, the same one for each daemon of this
  // state folder.
  absl::StatusOr<std::filesystem::path> TrainerSocket() const;

 private:
  StateFolder(std::filesystem::path path, std::string node_uid, UniqueFd lock)
      : path_(std::move(path)), node_uid_(std::move(node_uid)), lock_(std::move(lock)) {}

  std::filesystem::path GenerationFolder(const v1::Allocation& allocation) const;
  absl::Status RemoveByTrash(const std::filesystem::path& folder) const;

  std::filesystem::path path_;
  std::string node_uid_;
  UniqueFd lock_;
};

}  // namespace muster::worker
