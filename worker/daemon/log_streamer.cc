#include "worker/daemon/log_streamer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/rpc/limits.h"
#include "worker/daemon/rank_files.h"
#include "worker/daemon/wake_event.h"

namespace muster::worker {
namespace {

constexpr size_t kMostStreams = 32;
// The exit record appears by a rename, which the log file's watch does not see.
constexpr int kLookAgainMs = 100;

// Where the last `lines` lines of the file begin.
off_t StartOfTail(int fd, int lines) {
  off_t position = lseek(fd, 0, SEEK_END);
  std::string block(64 << 10, '\0');
  bool at_end = true;
  while (position > 0) {
    const off_t from = std::max<off_t>(0, position - static_cast<off_t>(block.size()));
    const ssize_t size = pread(fd, block.data(), static_cast<size_t>(position - from), from);
    if (size <= 0) return from;
    for (ssize_t i = size - 1; i >= 0; --i) {
      // The newline that ends the last line begins no other.
      const bool last_character = std::exchange(at_end, false);
      if (block[static_cast<size_t>(i)] != '\n' || last_character) continue;
      if (--lines == 0) return from + i + 1;
    }
    position = from;
  }
  return 0;
}

class Reader {
 public:
  Reader(const v1::LogRequest& request, int64_t generation, const LogStreamer::Sink& sink)
      : sink_(sink) {
    chunk_.set_request_id(request.request_id());
    chunk_.set_generation(generation);
  }

  // Sends the file from `position` to its present end; false when nobody wants more.
  bool SendRest(int fd, off_t* position) {
    std::string buffer(rpc::kMaxLogChunkBytes, '\0');
    while (true) {
      const ssize_t size = pread(fd, buffer.data(), buffer.size(), *position);
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) return true;
      *position += size;
      chunk_.set_data(buffer.data(), static_cast<size_t>(size));
      if (!sink_(chunk_)) return false;
    }
  }

  void End(const std::string& error) {
    chunk_.clear_data();
    chunk_.set_end(true);
    chunk_.set_error(error);
    sink_(chunk_);
  }

 private:
  const LogStreamer::Sink& sink_;
  v1::LogChunk chunk_;
};

}  // namespace

void LogStreamer::Run(const v1::LogRequest& request, const Sink& sink, int cancelled_fd) const {
  const v1::StreamLogsRequest& wanted = request.request();
  int64_t generation = 0;
  const absl::StatusOr<std::filesystem::path> folder =
      state_.FindRankFolder(wanted.name(), wanted.generation(), wanted.rank(), &generation);
  Reader reader(request, generation, sink);
  if (!folder.ok()) {
    reader.End(std::string(folder.status().message()));
    return;
  }
  const std::filesystem::path file = wanted.stream() == v1::StreamLogsRequest::STREAM_STDOUT
                                         ? StdoutLog(*folder)
                                         : StderrLog(*folder);
  const UniqueFd log(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!log.valid()) {
    reader.End(absl::StrCat("cannot read ", file.string(), ": ", std::strerror(errno)));
    return;
  }
  const UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (watch.valid()) inotify_add_watch(watch.get(), file.c_str(), IN_MODIFY);

  off_t position = wanted.tail_lines() > 0 ? StartOfTail(log.get(), wanted.tail_lines()) : 0;
  while (true) {
    // Looked at before reading: what is written up to the end is then read.
    const bool last = !wanted.follow() || !RankMayRun(*folder);
    if (!reader.SendRest(log.get(), &position)) return;
    if (last) break;
    pollfd descriptors[] = {{cancelled_fd, POLLIN, 0}, {watch.get(), POLLIN, 0}};
    poll(descriptors, 2, kLookAgainMs);
    if (descriptors[0].revents != 0) return;
    char events[4096];
    [[maybe_unused]] const ssize_t drained = read(watch.get(), events, sizeof(events));
  }
  reader.End("");
}

void LogStreamer::Start(const v1::LogRequest& request, Sink sink) {
  const int64_t id = request.request_id();
  if (TryStart(request, sink)) return;
  v1::LogChunk refusal;
  refusal.set_request_id(id);
  refusal.set_end(true);
  refusal.set_error("this node sends too many logs already: try again later");
  sink(refusal);
}

bool LogStreamer::TryStart(const v1::LogRequest& request, const Sink& sink) {
  absl::MutexLock lock(&mutex_);
  Reap();
  const int64_t id = request.request_id();
  if (streams_.size() >= kMostStreams || streams_.count(id) > 0) return false;
  auto stream = std::make_unique<Stream>();
  stream->cancelled = UniqueFd(eventfd(0, EFD_CLOEXEC));
  Stream* raw = stream.get();
  stream->thread = std::thread([this, raw, request, sink] {
    Run(request, sink, raw->cancelled.get());
    absl::MutexLock done(&mutex_);
    raw->done = true;
  });
  streams_[id] = std::move(stream);
  return true;
}

void LogStreamer::Cancel(int64_t request_id) {
  absl::MutexLock lock(&mutex_);
  const auto it = streams_.find(request_id);
  if (it == streams_.end()) return;
  Wake(it->second->cancelled);
}

void LogStreamer::Reap() {
  for (auto it = streams_.begin(); it != streams_.end();) {
    if (it->second->done) {
      // It holds no lock any more after `done`, so that this does not wait for us.
      it->second->thread.join();
      it = streams_.erase(it);
    } else {
      ++it;
    }
  }
}

void LogStreamer::StopAll() {
  std::map<int64_t, std::unique_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    streams.swap(streams_);
  }
  for (auto& [id, stream] : streams) {
    Wake(stream->cancelled);
    stream->thread.join();
  }
}

}  // namespace muster::worker
