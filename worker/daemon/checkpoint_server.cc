#include "worker/daemon/checkpoint_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/security/digest.h"
#include "common/security/self_signed.h"
#include "common/security/sha256_stream.h"
#include "worker/checkpoint/checkpoint_list.h"
#include "worker/daemon/tcp_socket.h"
#include "worker/daemon/wake_event.h"

namespace muster::worker {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostRequestBytes = 8 << 10;
constexpr size_t kPiece = 256 << 10;
// Before it accepts again when the process had no descriptor left.
constexpr int kBreatherMs = 1000;

struct Request {
  std::string path;
  std::string authorization;
  int64_t from = 0;
  // What is wrong with it: an HTTP status.
  int refused = 0;
};

// What a request names.
struct Wanted {
  enum class Part { kFile, kDescription, kDigest };
  Part part = Part::kFile;
  v1::Allocation job;
  std::string file;
};

bool IsPlain(absl::string_view text, absl::string_view more) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c)) ||
           absl::ascii_islower(static_cast<unsigned char>(c)) || absl::StrContains(more, c);
  });
}

Request ParseRequest(absl::string_view head) {
  Request request;
  const std::vector<absl::string_view> lines = absl::StrSplit(head, "\r\n");
  const std::vector<absl::string_view> words = absl::StrSplit(lines[0], ' ');
  if (words.size() != 3 || !absl::StartsWith(words[2], "HTTP/1.")) {
    request.refused = 400;
  } else {
    if (words[0] != "GET") request.refused = 405;
    request.path = std::string(words[1]);
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    absl::string_view value = absl::StripAsciiWhitespace(field.second);
    if (absl::EqualsIgnoreCase(field.first, "Authorization")) {
      request.authorization = std::string(value);
    } else if (absl::EqualsIgnoreCase(field.first, "Range")) {
      const bool understood = absl::ConsumePrefix(&value, "bytes=") &&
                              absl::ConsumeSuffix(&value, "-") &&
                              absl::SimpleAtoi(value, &request.from) && request.from >= 0;
      if (!understood) request.refused = 416;
    }
  }
  return request;
}

std::optional<Wanted> ParsePath(absl::string_view path) {
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  if (parts.size() != 5 || !parts[0].empty() || parts[1] != "checkpoints") return std::nullopt;
  Wanted wanted;
  absl::string_view file = parts[4];
  if (absl::ConsumeSuffix(&file, ".json")) {
    wanted.part = Wanted::Part::kDescription;
  } else if (absl::ConsumeSuffix(&file, ".sha256")) {
    wanted.part = Wanted::Part::kDigest;
  }
  if (!IsPlain(parts[2], "-") || !IsPlain(parts[3], "-") || !IsPlain(file, "._-")) {
    return std::nullopt;
  }
  wanted.job.set_job(absl::StrCat("jobs/", parts[2]));
  wanted.job.set_job_uid(std::string(parts[3]));
  wanted.file = std::string(file);
  return wanted;
}

std::string Head(int status, absl::string_view meaning, int64_t length,
                 absl::string_view more = "") {
  return absl::StrCat("HTTP/1.1 ", status, " ", meaning, "\r\nContent-Length: ", length,
                      "\r\nConnection: close\r\n", more, "\r\n");
}

std::string Refusal(int status) {
  switch (status) {
    case 401:
      return Head(401, "Unauthorized", 0, "WWW-Authenticate: Bearer\r\n");
    case 404:
      return Head(404, "Not Found", 0);
    case 405:
      return Head(405, "Method Not Allowed", 0, "Allow: GET\r\n");
    case 416:
      return Head(416, "Range Not Satisfiable", 0);
    default:
      return Head(400, "Bad Request", 0);
  }
}

bool IsReadable(int fd) {
  pollfd polled = {fd, POLLIN, 0};
  return poll(&polled, 1, 0) > 0;
}

absl::Status SendFile(TlsSocket* socket, int fd, int64_t from, int64_t size) {
  MUSTER_RETURN_IF_ERROR(socket->Write(
      from == 0
          ? Head(200, "OK", size)
          : Head(206, "Partial Content", size - from,
                 absl::StrCat("Content-Range: bytes ", from, "-", size - 1, "/", size, "\r\n"))));
  std::vector<char> piece(kPiece);
  while (from < size) {
    const size_t wanted = std::min(kPiece, static_cast<size_t>(size - from));
    const ssize_t got = pread(fd, piece.data(), wanted, from);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::DataLossError("the file became shorter");
    MUSTER_RETURN_IF_ERROR(socket->Write({piece.data(), static_cast<size_t>(got)}));
    from += got;
  }
  return absl::OkStatus();
}

}  // namespace

CheckpointServer::CheckpointServer(std::string node, const StateFolder& state,
                                   const base::Clock& clock, const Options& options)
    : node_(std::move(node)),
      state_(state),
      clock_(clock),
      options_(options),
      token_(security::MakeSecret()),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

CheckpointServer::~CheckpointServer() {
  Wake(stop_);
  thread_.join();
  std::list<Connection> connections;
  {
    absl::MutexLock lock(&mutex_);
    connections.splice(connections.begin(), connections_);
  }
  for (Connection& connection : connections) connection.thread.join();
}

absl::StatusOr<v1::CheckpointServer> CheckpointServer::Listen(const std::string& ip) {
  absl::MutexLock lock(&mutex_);
  if (ip_ == ip) return description_;
  MUSTER_ASSIGN_OR_RETURN(const security::SelfSigned identity, security::MakeSelfSigned(node_, ip));
  MUSTER_ASSIGN_OR_RETURN(security::OpensslPtr<SSL_CTX> context,
                          MakeServerContext(identity.certificate.get(), identity.key.get()));
  MUSTER_ASSIGN_OR_RETURN(ListeningSocket socket, ListenOn(ip));
  fcntl(socket.fd.get(), F_SETFL, fcntl(socket.fd.get(), F_GETFL) | O_NONBLOCK);
  ip_ = ip;
  description_.set_node(node_);
  description_.set_address(socket.address);
  description_.set_certificate(identity.pem);
  description_.set_token(token_);
  listener_ = std::move(socket.fd);
  context_ = Context(context.release(), SSL_CTX_free);
  Wake(wake_);
  return description_;
}

int CheckpointServer::Sweep() {
  std::list<Connection> finished;
  int left = 0;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      const auto next = std::next(it);
      if (it->finished) finished.splice(finished.end(), connections_, it);
      it = next;
    }
    left = static_cast<int>(connections_.size());
  }
  for (Connection& connection : finished) connection.thread.join();
  return left;
}

void CheckpointServer::Run() {
  while (true) {
    // A full house leaves the rest waiting in the kernel.
    const bool room = Sweep() < options_.most_connections;
    int listener = -1;
    {
      absl::MutexLock lock(&mutex_);
      if (room) listener = listener_.get();
    }
    pollfd polled[] = {{stop_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}, {listener, POLLIN, 0}};
    if (poll(polled, 3, -1) < 0) continue;
    if (polled[0].revents != 0) return;
    if (polled[1].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t drained = read(wake_.get(), &count, sizeof(count));
    } else if (polled[2].revents != 0) {
      Accept();
    }
  }
}

void CheckpointServer::Accept() {
  absl::ReleasableMutexLock lock(&mutex_);
  UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    const bool full = errno == EMFILE || errno == ENFILE;
    lock.Release();
    pollfd stop = {stop_.get(), POLLIN, 0};
    if (full) poll(&stop, 1, kBreatherMs);
    return;
  }
  Connection& connection = connections_.emplace_back();
  connection.thread =
      std::thread([this, &connection, context = context_, taken = std::move(fd)]() mutable {
        Serve(std::move(taken), context);
        absl::MutexLock finish(&mutex_);
        connection.finished = true;
        Wake(wake_);
      });
}

void CheckpointServer::Serve(UniqueFd fd, const Context& context) const {
  SocketLimit limit;
  limit.clock = &clock_;
  limit.silence = options_.silence;
  limit.deadline = clock_.Monotonic() + options_.request_timeout;
  limit.stop_fd = stop_.get();
  absl::StatusOr<TlsSocket> socket = TlsSocket::Accept(std::move(fd), context.get(), limit);
  // Strangers are not worth a line.
  if (!socket.ok()) return;
  if (const absl::Status answered = Answer(&*socket); !answered.ok()) {
    base::Log(base::LogSeverity::kInfo, "worker", "a checkpoint was not handed on to its end",
              {{"reason", answered.message()}});
  }
}

absl::Status CheckpointServer::Answer(TlsSocket* socket) const {
  std::string head;
  size_t end = std::string::npos;
  while (end == std::string::npos) {
    char buffer[4096];
    const absl::StatusOr<size_t> size = socket->Read(buffer, sizeof(buffer));
    if (!size.ok() || *size == 0 || head.size() > kMostRequestBytes) return absl::OkStatus();
    head.append(buffer, *size);
    end = head.find("\r\n\r\n");
  }
  socket->SetDeadline(absl::InfiniteDuration());
  const auto refuse = [&](int status) {
    const absl::Status sent = socket->Write(Refusal(status));
    socket->Close();
    return sent;
  };
  const Request request = ParseRequest(head.substr(0, end));
  if (!security::EqualInConstantTime(request.authorization, absl::StrCat("Bearer ", token_))) {
    return refuse(401);
  }
  if (request.refused != 0) return refuse(request.refused);
  const std::optional<Wanted> wanted = ParsePath(request.path);
  if (!wanted.has_value()) return refuse(404);
  // Links would lead elsewhere.
  const fs::path folder = state_.OutputFolder(wanted->job);
  std::error_code error;
  if (fs::canonical(folder, error) != folder || error) return refuse(404);
  const std::vector<v1::Checkpoint> listed = checkpoint::ListCheckpoints(folder, "worker");
  const auto found = std::find_if(listed.begin(), listed.end(), [&](const v1::Checkpoint& one) {
    return one.file() == wanted->file;
  });
  if (found == listed.end()) return refuse(404);
  const UniqueFd file(open((folder / wanted->file).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!file.valid() || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) return refuse(404);

  std::string body;
  switch (wanted->part) {
    case Wanted::Part::kFile:
      if (request.from > 0 && request.from >= info.st_size) return refuse(416);
      MUSTER_RETURN_IF_ERROR(SendFile(socket, file.get(), request.from, info.st_size));
      socket->Close();
      return absl::OkStatus();
    case Wanted::Part::kDescription:
      if (!google::protobuf::util::MessageToJsonString(*found, &body).ok()) return refuse(404);
      break;
    case Wanted::Part::kDigest: {
      MUSTER_ASSIGN_OR_RETURN(
          body, security::Sha256OfFile(file.get(), [this] { return IsReadable(stop_.get()); }));
      break;
    }
  }
  MUSTER_RETURN_IF_ERROR(
      socket->Write(absl::StrCat(Head(200, "OK", static_cast<int64_t>(body.size())), body)));
  socket->Close();
  return absl::OkStatus();
}

}  // namespace muster::worker
