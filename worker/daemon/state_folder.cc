#include "worker/daemon/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/text_format.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/random_id.h"
#include "common/base/status_macros.h"

namespace muster::worker {
namespace {

constexpr char kRecord[] = "allocation.textproto";
constexpr char kTrash[] = "trash";
constexpr size_t kUidCharacters = 8;

std::string JobId(const std::string& job) { return std::string(absl::StripPrefix(job, "jobs/")); }

absl::StatusOr<std::string> ReadOrMakeUid(const std::filesystem::path& file) {
  if (absl::StatusOr<std::string> uid = base::ReadFile(file); uid.ok() && !uid->empty()) return uid;
  const std::string made = base::RandomUuid();
  MUSTER_RETURN_IF_ERROR(base::WriteFileAtomically(file, made));
  return made;
}

std::vector<std::filesystem::path> Entries(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> entries;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    entries.push_back(entry.path());
  }
  return entries;
}

absl::Time LastWrite(const std::filesystem::path& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return absl::InfinitePast();
  return absl::TimeFromTimespec(info.st_mtim);
}

}  // namespace

absl::StatusOr<StateFolder> StateFolder::Open(const std::filesystem::path& folder) {
  MUSTER_RETURN_IF_ERROR(base::CreateFolders(folder / "jobs"));
  const std::filesystem::path path = std::filesystem::canonical(folder);
  UniqueFd lock(open((path / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock.valid()) return base::ErrnoStatus(errno, "open", path / "lock");
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("another muster-worker uses the state folder ",
                                                 path.string(),
                                                 ": end it, or choose another --state-dir"));
  }
  MUSTER_ASSIGN_OR_RETURN(std::string uid, ReadOrMakeUid(path / "node_uid"));
  return StateFolder(path, std::move(uid), std::move(lock));
}

std::filesystem::path StateFolder::OutputFolder(const v1::Allocation& allocation) const {
  return path_ / "jobs" /
         absl::StrCat(JobId(allocation.job()), "-",
                      allocation.job_uid().substr(0, kUidCharacters)) /
         "output";
}

std::filesystem::path StateFolder::GenerationFolder(const v1::Allocation& allocation) const {
  return OutputFolder(allocation).parent_path() / "generations" /
         absl::StrCat(allocation.generation());
}

std::filesystem::path StateFolder::RankFolder(const v1::Allocation& allocation, int rank) const {
  return GenerationFolder(allocation) / absl::StrCat("rank-", rank);
}

absl::Status StateFolder::WriteRecord(const v1::Allocation& allocation) const {
  const std::filesystem::path folder = GenerationFolder(allocation);
  MUSTER_RETURN_IF_ERROR(base::CreateFolders(folder));
  std::string text;
  google::protobuf::TextFormat::PrintToString(allocation, &text);
  return base::WriteFileAtomically(folder / kRecord, text);
}

absl::Status StateFolder::RemoveRecord(const v1::Allocation& allocation) const {
  const std::filesystem::path file = GenerationFolder(allocation) / kRecord;
  if (unlink(file.c_str()) != 0 && errno != ENOENT) {
    return base::ErrnoStatus(errno, "remove", file);
  }
  return absl::OkStatus();
}

std::vector<v1::Allocation> StateFolder::ReadRecords() const {
  std::vector<v1::Allocation> records;
  for (const std::filesystem::path& job : Entries(path_ / "jobs")) {
    for (const std::filesystem::path& generation : Entries(job / "generations")) {
      const absl::StatusOr<std::string> text = base::ReadFile(generation / kRecord);
      if (absl::IsNotFound(text.status())) continue;
      v1::Allocation allocation;
      if (text.ok() && google::protobuf::TextFormat::ParseFromString(*text, &allocation)) {
        records.push_back(std::move(allocation));
      } else {
        base::Log(base::LogSeverity::kError, "worker", "an allocation's record cannot be read",
                  {{"file", (generation / kRecord).string()}});
      }
    }
  }
  return records;
}

absl::StatusOr<std::filesystem::path> StateFolder::FindRankFolder(const std::string& job,
                                                                  int64_t generation, int rank,
                                                                  int64_t* found_generation) const {
  std::filesystem::path newest;
  std::filesystem::file_time_type newest_use = std::filesystem::file_time_type::min();
  const std::string prefix = JobId(job) + "-";
  for (const std::filesystem::path& folder : Entries(path_ / "jobs")) {
    const std::string name = folder.filename().string();
    // "a-b-<uid>" belongs to job "a-b", not to job "a".
    if (name.rfind(prefix, 0) != 0 || name.find('-', prefix.size()) != std::string::npos) continue;
    std::error_code error;
    // A job of the same name but another uid is of an earlier coordinator.
    const auto use = std::filesystem::last_write_time(folder / "generations", error);
    if (error || use < newest_use) continue;
    int64_t best = 0;
    for (const std::filesystem::path& entry : Entries(folder / "generations")) {
      int64_t number = 0;
      if (!absl::SimpleAtoi(entry.filename().string(), &number)) continue;
      if (generation != 0 && number != generation) continue;
      const std::filesystem::path rank_folder = entry / absl::StrCat("rank-", rank);
      if (number <= best || !std::filesystem::is_directory(rank_folder, error)) continue;
      best = number;
      newest = rank_folder;
      newest_use = use;
      *found_generation = number;
    }
  }
  if (newest.empty()) {
    return absl::NotFoundError(
        absl::StrCat("rank ", rank, " of ", job, " has not been started on this node",
                     generation != 0 ? absl::StrCat(" in generation ", generation) : ""));
  }
  return newest;
}

std::vector<StateFolder::JobFolder> StateFolder::ListJobs() const {
  std::vector<JobFolder> folders;
  for (const std::filesystem::path& path : Entries(path_ / "jobs")) {
    const std::string name = path.filename().string();
    const size_t dash = name.rfind('-');
    if (dash == std::string::npos || dash == 0) continue;
    JobFolder folder;
    folder.job = absl::StrCat("jobs/", name.substr(0, dash));
    folder.uid = name.substr(dash + 1);
    folder.path = path;
    folder.last_write = LastWrite(path);
    std::error_code error;
    // Trainers come and go meanwhile: what vanishes under the walk counts for nothing.
    for (auto it = std::filesystem::recursive_directory_iterator(path, error);
         !error && it != std::filesystem::recursive_directory_iterator(); it.increment(error)) {
      folder.last_write = std::max(folder.last_write, LastWrite(it->path()));
      std::error_code ignored;
      if (it->symlink_status(ignored).type() != std::filesystem::file_type::regular) continue;
      const uintmax_t size = it->file_size(ignored);
      if (!ignored) folder.bytes += static_cast<int64_t>(size);
    }
    for (const std::filesystem::path& generation : Entries(path / "generations")) {
      int64_t number = 0;
      if (!absl::SimpleAtoi(generation.filename().string(), &number)) continue;
      folder.generations.push_back(number);
      folder.has_record |= std::filesystem::exists(generation / kRecord, error);
    }
    std::sort(folder.generations.begin(), folder.generations.end());
    folders.push_back(std::move(folder));
  }
  return folders;
}

absl::Status StateFolder::RemoveByTrash(const std::filesystem::path& folder) const {
  MUSTER_RETURN_IF_ERROR(base::CreateFolders(path_ / kTrash));
  // The name is free: nobody else removes here.
  const std::filesystem::path moved = path_ / kTrash / base::RandomHex(8);
  if (rename(folder.c_str(), moved.c_str()) != 0) {
    return base::ErrnoStatus(errno, "remove", folder);
  }
  std::error_code error;
  std::filesystem::remove_all(moved, error);
  return error ? base::ErrnoStatus(error.value(), "remove", moved) : absl::OkStatus();
}

absl::Status StateFolder::RemoveJob(const JobFolder& folder) const {
  return RemoveByTrash(folder.path);
}

absl::Status StateFolder::RemoveGeneration(const JobFolder& folder, int64_t generation) const {
  const std::filesystem::path path = folder.path / "generations" / absl::StrCat(generation);
  std::error_code error;
  if (std::filesystem::exists(path / kRecord, error)) {
    return absl::FailedPreconditionError(absl::StrCat(path.string(), " is of ranks that run"));
  }
  return RemoveByTrash(path);
}

void StateFolder::RemoveTrash() const {
  std::error_code error;
  std::filesystem::remove_all(path_ / kTrash, error);
  if (!error) return;
  base::Log(base::LogSeverity::kWarning, "worker", "old files cannot be removed",
            {{"folder", (path_ / kTrash).string()}, {"reason", error.message()}});
}

absl::StatusOr<std::filesystem::path> StateFolder::TrainerSocket() const {
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  const std::filesystem::path usual = path_ / "trainer.sock";
  if (usual.string().size() <= kLongest) return usual;
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / absl::StrCat("muster-", node_uid_.substr(0, 18));
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return base::ErrnoStatus(errno, "make", folder);
  }
  struct stat info {};
  if (lstat(folder.c_str(), &info) != 0) return base::ErrnoStatus(errno, "look at", folder);
  if (!S_ISDIR(info.st_mode) || info.st_uid != getuid() || (info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(folder.string(), " is not a private folder of this user: remove it"));
  }
  base::Log(base::LogSeverity::kInfo, "worker", "the state folder's path is too long for a socket",
            {{"state_dir", path_.string()}, {"socket", (folder / "trainer.sock").string()}});
  return folder / "trainer.sock";
}

}  // namespace muster::worker
