#include "worker/daemon/checkpoint_fetcher.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/security/sha256_stream.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/checkpoint/latest_link.h"
#include "worker/daemon/https_get.h"
#include "worker/daemon/wake_event.h"

namespace muster::worker {
namespace {

namespace fs = std::filesystem;

constexpr char kPartSuffix[] = ".fetch.part";
constexpr size_t kMostDescriptionBytes = 64 << 10;
// For metadata, logs and the description.
constexpr int64_t kSpareBytes = int64_t{16} << 20;
// What a source reads in a second at least, while it computes a digest.
constexpr int64_t kDigestBytesPerSecond = int64_t{20} << 20;
// A source that sends damaged bytes again would do so for ever.
constexpr int kMostDamaged = 2;

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

// The answer's text, at most `most` bytes of it.
absl::StatusOr<std::string> GetText(const v1::CheckpointServer& source, const std::string& path,
                                    const SocketLimit& limit, size_t most) {
  std::string text;
  const auto head = [&](const HttpsAnswer& answer) -> absl::Status {
    if (answer.status == 404) return absl::NotFoundError("it does not hold it");
    if (answer.status == 401) {
      return absl::UnauthenticatedError("it does not take our token: its worker was started again");
    }
    if (answer.status != 200 || answer.length > static_cast<int64_t>(most)) {
      return absl::InvalidArgumentError(
          absl::StrCat("it answers with status ", answer.status, " and ", answer.length, " bytes"));
    }
    return absl::OkStatus();
  };
  MUSTER_RETURN_IF_ERROR(HttpsGet(source, path, 0, limit, head, [&](absl::string_view data) {
    text.append(data.data(), data.size());
    return absl::OkStatus();
  }));
  return text;
}

// Its code says that no other source helps.
absl::Status LocalFailure(const absl::Status& status) {
  return absl::ResourceExhaustedError(
      absl::StrCat(status.message(), absl::IsResourceExhausted(status) ? "; make room there" : ""));
}

absl::Status LocalFailure(int error, const char* what, const fs::path& path) {
  return LocalFailure(base::ErrnoStatus(error, what, path));
}

}  // namespace

absl::StatusOr<int64_t> FreeBytes(const fs::path& folder) {
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) return base::ErrnoStatus(errno, "look at", folder);
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

CheckpointFetcher::Fetch::Fetch(Request request)
    : request_(std::move(request)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      sources_(request_.sources) {}

void CheckpointFetcher::Fetch::SetSources(std::vector<v1::CheckpointServer> sources) {
  absl::MutexLock lock(&mutex_);
  sources_ = std::move(sources);
}

void CheckpointFetcher::Fetch::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  Wake(stop_);
}

bool CheckpointFetcher::Fetch::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

std::vector<v1::CheckpointServer> CheckpointFetcher::Fetch::sources() const {
  absl::MutexLock lock(&mutex_);
  return sources_;
}

bool CheckpointFetcher::Fetch::WaitForChange(const std::vector<v1::CheckpointServer>& known,
                                             absl::Duration longest) const {
  absl::MutexLock lock(&mutex_);
  const auto changed = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return cancelled_ ||
           !std::equal(known.begin(), known.end(), sources_.begin(), sources_.end(),
                       [](const v1::CheckpointServer& a, const v1::CheckpointServer& b) {
                         return a.SerializeAsString() == b.SerializeAsString();
                       });
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&changed), longest);
}

// The bytes of one fetch, from whichever source.
class CheckpointFetcher::Transfer {
 public:
  Transfer(const CheckpointFetcher& fetcher, const Fetch& fetch, const OnProgress& on_progress)
      : options_(fetcher.options_),
        clock_(fetcher.clock_),
        request_(fetch.request_),
        on_progress_(on_progress),
        path_(request_.folder / request_.checkpoint.file()),
        part_(path_.string() + kPartSuffix),
        last_byte_(clock_.Monotonic()) {
    limit_.clock = &clock_;
    limit_.silence = options_.silence;
    limit_.stop_fd = fetch.stop_.get();
  }
  ~Transfer() {
    std::error_code ignored;
    fs::remove(part_, ignored);
  }

  // NotFound: the source does not hold it. ResourceExhausted: this node is at fault. DataLoss: what
  // has come is damaged, and is forgotten. Else the source or the network; may be tried again.
  absl::Status Try(const v1::CheckpointServer& source) {
    const std::string url =
        absl::StrCat("/checkpoints/", absl::StripPrefix(request_.checkpoint.job(), "jobs/"), "/",
                     request_.job_uid, "/", request_.checkpoint.file());
    MUSTER_ASSIGN_OR_RETURN(const std::string text, GetText(source, absl::StrCat(url, ".json"),
                                                            limit_, kMostDescriptionBytes));
    MUSTER_RETURN_IF_ERROR(TakeDescription(text));
    MUSTER_RETURN_IF_ERROR(CheckSpace());
    MUSTER_RETURN_IF_ERROR(GetFile(source, url));
    Show(source);
    SocketLimit patient = limit_;
    patient.silence += absl::Seconds(size_ / kDigestBytesPerSecond);
    MUSTER_ASSIGN_OR_RETURN(const std::string digest,
                            GetText(source, absl::StrCat(url, ".sha256"), patient, 64));
    const std::string own = hash_->Finish();
    hash_.reset();
    if (digest != own) {
      Forget();
      return absl::DataLossError("it arrived damaged (its SHA-256 differs)");
    }
    return Publish();
  }

  // When the last byte came, or it began.
  absl::Duration last_byte() const { return last_byte_; }

 private:
  absl::Status TakeDescription(const std::string& text) {
    v1::Checkpoint described;
    google::protobuf::util::JsonParseOptions newer_writers_too;
    newer_writers_too.ignore_unknown_fields = true;
    if (!google::protobuf::util::JsonStringToMessage(text, &described, newer_writers_too).ok()) {
      return absl::InvalidArgumentError("its description of the checkpoint cannot be read");
    }
    const v1::Checkpoint& wanted = request_.checkpoint;
    if (described.job() != wanted.job() || described.generation() != wanted.generation() ||
        described.step() != wanted.step() || described.digest() != wanted.digest()) {
      return absl::NotFoundError("it holds another checkpoint under this name");
    }
    if (described.size_bytes() != size_) Forget();
    size_ = described.size_bytes();
    described_ = std::move(described);
    described_.set_file(wanted.file());
    return absl::OkStatus();
  }

  absl::Status CheckSpace() const {
    MUSTER_ASSIGN_OR_RETURN(const int64_t free, options_.free_bytes(request_.folder));
    const int64_t needed = size_ - have_ + kSpareBytes;
    if (free >= needed) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat(Megabytes(needed), " are needed in ", request_.folder.string(), " and ",
                     Megabytes(free), " are free: make room there"));
  }

  absl::Status GetFile(const v1::CheckpointServer& source, const std::string& url) {
    if (!fd_.valid()) {
      fd_ = UniqueFd(open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
      if (!fd_.valid()) return LocalFailure(errno, "create", part_);
      have_ = 0;
      hash_ = std::make_unique<security::Sha256Stream>();
    }
    if (have_ == size_) return absl::OkStatus();
    const auto head = [&](const HttpsAnswer& answer) -> absl::Status {
      if (answer.status == 404) return absl::NotFoundError("it does not hold it");
      if (answer.status != (have_ > 0 ? 206 : 200)) {
        return absl::InvalidArgumentError(absl::StrCat("it answers with status ", answer.status));
      }
      if (answer.length != size_ - have_) {
        return absl::InvalidArgumentError(absl::StrCat("it sends ", answer.length, " bytes where ",
                                                       size_ - have_, " are expected"));
      }
      return absl::OkStatus();
    };
    Show(source);
    return HttpsGet(source, url, have_, limit_, head, [&](absl::string_view data) {
      last_byte_ = clock_.Monotonic();
      MUSTER_RETURN_IF_ERROR(Write(data));
      if (last_byte_ - shown_ >= options_.progress_interval) Show(source);
      return absl::OkStatus();
    });
  }

  absl::Status Write(absl::string_view data) {
    hash_->Update(data);
    have_ += static_cast<int64_t>(data.size());
    while (!data.empty()) {
      const ssize_t written = write(fd_.get(), data.data(), data.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return LocalFailure(errno, "write", part_);
      data.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }

  absl::Status Publish() {
    fd_.Reset();
    const fs::path description = path_.string() + ".json";
    // Of an older file of this name: it must not vouch for the new one.
    if (unlink(description.c_str()) != 0 && errno != ENOENT) {
      return LocalFailure(errno, "remove", description);
    }
    std::string json;
    google::protobuf::util::JsonPrintOptions options;
    options.add_whitespace = true;
    if (!google::protobuf::util::MessageToJsonString(described_, &json, options).ok()) {
      return absl::InternalError("its description cannot be printed");
    }
    absl::Status published = base::PublishFile(part_, path_);
    if (published.ok()) published = base::WriteFileAtomically(description, json);
    if (!published.ok()) {
      unlink(description.c_str());
      unlink(path_.c_str());
      return LocalFailure(published);
    }
    UpdateLatest();
    return published;
  }

  // Whoever resumes does not need the link.
  void UpdateLatest() const {
    // More steps in an older generation are a branch that was given up.
    for (const v1::Checkpoint& held : checkpoint::ListCheckpoints(request_.folder, "worker")) {
      if (held.generation() >= described_.generation() && held.step() > described_.step()) return;
    }
    const absl::Status pointed =
        checkpoint::PointLatestAt(request_.folder, request_.checkpoint.file());
    if (pointed.ok()) return;
    base::Log(base::LogSeverity::kWarning, "worker", "latest.pth is an older checkpoint",
              {{"error", absl::string_view(pointed.message())}});
  }

  // What has come.
  void Forget() {
    fd_.Reset();
    have_ = 0;
  }

  void Show(const v1::CheckpointServer& source) {
    shown_ = clock_.Monotonic();
    on_progress_(absl::StrCat("fetching ", request_.checkpoint.file(), " from nodes/",
                              source.node(), ": ", have_ / 1'000'000, " of ",
                              (size_ + 999'999) / 1'000'000, " MB"));
  }

  const Options& options_;
  const base::Clock& clock_;
  const Request& request_;
  const OnProgress& on_progress_;
  const fs::path path_;
  const fs::path part_;
  SocketLimit limit_;
  v1::Checkpoint described_;
  int64_t size_ = 0;
  // Of the part.
  UniqueFd fd_;
  int64_t have_ = 0;
  std::unique_ptr<security::Sha256Stream> hash_;
  absl::Duration last_byte_;
  absl::Duration shown_ = -absl::InfiniteDuration();
};

CheckpointFetcher::CheckpointFetcher(std::string node, const base::Clock& clock, Options options)
    : node_(std::move(node)), clock_(clock), options_(std::move(options)) {}

CheckpointFetcher::~CheckpointFetcher() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    for (Work& work : works_) {
      work.fetch->Cancel();
      threads.push_back(std::move(work.thread));
    }
  }
  for (std::thread& thread : threads) thread.join();
}

bool CheckpointFetcher::Waits(const Work& work) const {
  for (const Work& other : works_) {
    if (&other == &work) return false;
    if (!other.finished && other.folder == work.folder) return true;
  }
  return false;
}

std::shared_ptr<CheckpointFetcher::Fetch> CheckpointFetcher::Start(Request request,
                                                                   OnProgress on_progress,
                                                                   OnDone done) {
  absl::MutexLock lock(&mutex_);
  for (auto it = works_.begin(); it != works_.end();) {
    if (it->finished) it->thread.join();
    it = it->finished ? works_.erase(it) : std::next(it);
  }
  Work& work = works_.emplace_back();
  work.folder = request.folder;
  work.fetch = std::make_shared<Fetch>(std::move(request));
  work.thread = std::thread([this, &work, fetch = work.fetch, on_progress = std::move(on_progress),
                             done = std::move(done)] {
    {
      absl::MutexLock turn(&mutex_);
      const auto my_turn = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !Waits(work); };
      mutex_.Await(absl::Condition(&my_turn));
    }
    done(Run(*fetch, on_progress));
    absl::MutexLock finish(&mutex_);
    work.finished = true;
  });
  return work.fetch;
}

absl::Status CheckpointFetcher::Failed(const Fetch& fetch, const v1::CheckpointServer& source,
                                       const absl::Status& reason) const {
  const bool network = absl::IsUnavailable(reason) || absl::IsDeadlineExceeded(reason);
  return absl::UnavailableError(
      absl::StrCat("nodes/", node_, " cannot fetch ", fetch.checkpoint().file(), " from nodes/",
                   source.node(), " at ", source.address(), ": ", reason.message(),
                   network ? "; open TCP between the nodes or pass --advertise-address" : ""));
}

CheckpointFetcher::Outcome CheckpointFetcher::Run(const Fetch& fetch,
                                                  const OnProgress& on_progress) const {
  std::error_code ignored;
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(fetch.request_.folder, ignored)) {
    if (absl::EndsWith(entry.path().string(), kPartSuffix)) old.push_back(entry.path());
  }
  for (const fs::path& part : old) fs::remove(part, ignored);

  Transfer transfer(*this, fetch, on_progress);
  Outcome outcome;
  std::set<std::string> without;
  int damaged = 0;
  absl::Duration last_chance = clock_.Monotonic() + options_.patience;
  const absl::Duration began = clock_.Monotonic();
  while (true) {
    const std::vector<v1::CheckpointServer> sources = fetch.sources();
    absl::Status failure;
    for (const v1::CheckpointServer& source : sources) {
      if (without.count(source.node()) > 0) continue;
      if (fetch.cancelled()) break;
      const absl::Status tried = transfer.Try(source);
      if (tried.ok()) {
        base::Log(base::LogSeverity::kInfo, "worker", "fetched a checkpoint",
                  {{"job", fetch.checkpoint().job()},
                   {"file", fetch.checkpoint().file()},
                   {"from", source.node()},
                   {"seconds", absl::ToDoubleSeconds(clock_.Monotonic() - began)}});
        return outcome;
      }
      if (absl::IsNotFound(tried)) {
        without.insert(source.node());
        outcome.not_held_by.push_back(source.node());
        continue;
      }
      if (absl::IsDataLoss(tried)) ++damaged;
      if (absl::IsResourceExhausted(tried) || damaged == kMostDamaged) {
        outcome.status = Failed(fetch, source, tried);
        return outcome;
      }
      if (failure.ok()) failure = Failed(fetch, source, tried);
    }
    if (fetch.cancelled()) {
      outcome.status = absl::CancelledError("stopped");
      return outcome;
    }
    if (sources.empty()) {
      on_progress(absl::StrCat("waits for a node that holds ", fetch.checkpoint().file()));
      fetch.WaitForChange(sources, absl::InfiniteDuration());
      last_chance = clock_.Monotonic() + options_.patience;
      continue;
    }
    // All of them have said that they do not hold it.
    if (failure.ok()) return outcome;
    last_chance = std::max(last_chance, transfer.last_byte() + options_.patience);
    const bool last = clock_.Monotonic() >= last_chance;
    if (fetch.WaitForChange(sources, last ? absl::ZeroDuration() : options_.pause)) {
      last_chance = clock_.Monotonic() + options_.patience;
    } else if (last) {
      outcome.status = failure;
      return outcome;
    }
  }
}

}  // namespace muster::worker
