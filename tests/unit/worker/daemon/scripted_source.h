#pragma once

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "common/base/clock.h"
#include "common/security/self_signed.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/tcp_socket.h"
#include "worker/daemon/tls_socket.h"

namespace muster::worker {

// A CheckpointServer that does what the test says: one connection after the other, one request
// each.
class ScriptedSource {
 public:
  struct Request {
    std::string path;
    // "Range: bytes=N-"
    int64_t from = 0;
    bool EndsWith(const std::string& suffix) const { return absl::EndsWith(path, suffix); }
  };
  // Afterwards the connection is cut.
  using Script = std::function<void(const Request& request, TlsSocket* socket)>;

  ScriptedSource(std::string node, Script script)
      : script_(std::move(script)), stop_(eventfd(0, EFD_CLOEXEC)) {
    const auto identity = security::MakeSelfSigned(node, "127.0.0.1");
    context_ = *MakeServerContext(identity->certificate.get(), identity->key.get());
    listener_ = *ListenOn("127.0.0.1");
    described_.set_node(std::move(node));
    described_.set_address(listener_.address);
    described_.set_certificate(identity->pem);
    described_.set_token("muster-token");
    thread_ = std::thread([this] { Run(); });
  }
  ~ScriptedSource() {
    HangUp();
    shutdown(listener_.fd.get(), SHUT_RDWR);
    thread_.join();
  }
  // Ends what is under way, and each later connection at once.
  void HangUp() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
  }

  const v1::CheckpointServer& described() const { return described_; }
  std::vector<Request> requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }

  static void Reply(TlsSocket* socket, int status, const std::string& body) {
    ReplyPart(socket, status, static_cast<int64_t>(body.size()), body);
  }
  // Announces more, or less, than it says.
  static void ReplyPart(TlsSocket* socket, int status, int64_t length, const std::string& body) {
    socket
        ->Write(
            absl::StrCat("HTTP/1.1 ", status, " X\r\ncontent-length: ", length, "\r\n\r\n", body))
        .IgnoreError();
  }
  // Says nothing more until the source or the other side ends.
  static void FallSilent(TlsSocket* socket) {
    char byte = 0;
    socket->Read(&byte, 1).status().IgnoreError();
  }

 private:
  void Run() {
    while (true) {
      UniqueFd fd(accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd.valid()) return;
      SocketLimit limit;
      limit.clock = &clock_;
      limit.silence = absl::Seconds(30);
      limit.stop_fd = stop_.get();
      absl::StatusOr<TlsSocket> socket = TlsSocket::Accept(std::move(fd), context_.get(), limit);
      if (!socket.ok()) continue;
      std::string head;
      char buffer[4096];
      while (head.find("\r\n\r\n") == std::string::npos) {
        const absl::StatusOr<size_t> size = socket->Read(buffer, sizeof(buffer));
        if (!size.ok() || *size == 0) break;
        head.append(buffer, *size);
      }
      if (head.find("Bearer muster-token\r\n") == std::string::npos) continue;
      Request request;
      request.path = head.substr(4, head.find(" HTTP/") - 4);
      const size_t range = head.find("Range: bytes=");
      if (range != std::string::npos) {
        const size_t begin = range + 13;
        if (!absl::SimpleAtoi(head.substr(begin, head.find("-\r\n", begin) - begin),
                              &request.from)) {
          continue;
        }
      }
      {
        absl::MutexLock lock(&mutex_);
        requests_.push_back(request);
      }
      script_(request, &*socket);
    }
  }

  const Script script_;
  const UniqueFd stop_;
  base::SystemClock clock_;
  security::OpensslPtr<SSL_CTX> context_;
  ListeningSocket listener_;
  v1::CheckpointServer described_;
  mutable absl::Mutex mutex_;
  std::vector<Request> requests_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace muster::worker
