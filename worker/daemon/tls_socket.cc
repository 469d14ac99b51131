#include "worker/daemon/tls_socket.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

absl::Status Given(int error) {
  std::string reason = std::strerror(error);
  absl::AsciiStrToLower(&reason);
  return absl::UnavailableError(reason);
}

// OpenSSL writes without MSG_NOSIGNAL.
void IgnoreBrokenPipes() {
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
}

security::OpensslPtr<SSL_CTX> MakeContext(const SSL_METHOD* method) {
  security::OpensslPtr<SSL_CTX> context(SSL_CTX_new(method));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  return context;
}

}  // namespace

absl::StatusOr<security::OpensslPtr<SSL_CTX>> MakeServerContext(X509* certificate, EVP_PKEY* key) {
  security::OpensslPtr<SSL_CTX> context = MakeContext(TLS_server_method());
  if (SSL_CTX_use_certificate(context.get(), certificate) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key) != 1) {
    ERR_clear_error();
    return absl::InternalError("certificate and key cannot be used");
  }
  return context;
}

TlsSocket::TlsSocket(UniqueFd fd, security::OpensslPtr<SSL> ssl, const SocketLimit& limit)
    : fd_(std::move(fd)), ssl_(std::move(ssl)), limit_(limit) {
  SSL_set_fd(ssl_.get(), fd_.get());
}

absl::Status TlsSocket::Wait(short events) const {  // NOLINT(google-runtime-int)
  const absl::Duration now = limit_.clock->Monotonic();
  const absl::Duration until = std::min(now + limit_.silence, limit_.deadline);
  while (true) {
    const absl::Duration left = until - limit_.clock->Monotonic();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("connection timed out");
    pollfd polled[] = {{fd_.get(), events, 0}, {limit_.stop_fd, POLLIN, 0}};
    const int ready = poll(polled, 2, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready <= 0) continue;
    if (polled[1].revents != 0) return absl::CancelledError("stopped");
    if (polled[0].revents != 0) return absl::OkStatus();
  }
}

absl::Status TlsSocket::WaitFor(int result) const {
  const int saved = errno;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Wait(POLLIN);
    case SSL_ERROR_WANT_WRITE:
      return Wait(POLLOUT);
    case SSL_ERROR_ZERO_RETURN:
      return absl::OutOfRangeError("it has closed the connection");
    case SSL_ERROR_SYSCALL:
      ERR_clear_error();
      return saved != 0 ? Given(saved) : absl::UnavailableError("it hung up");
    default: {
      const unsigned long code = ERR_peek_error();
      ERR_clear_error();
      if (ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        return absl::UnavailableError("it hung up");
      }
      const char* const reason = ERR_reason_error_string(code);
      return absl::UnavailableError(
          absl::StrCat("TLS failed: ", reason != nullptr ? reason : "unknown reason"));
    }
  }
}

absl::Status TlsSocket::Handshake() {
  while (true) {
    ERR_clear_error();
    errno = 0;
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) return absl::OkStatus();
    if (absl::Status waited = WaitFor(result); !waited.ok()) {
      return absl::IsOutOfRange(waited) ? absl::UnavailableError("it hung up") : waited;
    }
  }
}

absl::StatusOr<TlsSocket> TlsSocket::Connect(const std::string& ip, int port, X509* certificate,
                                             const SocketLimit& limit) {
  IgnoreBrokenPipes();
  const char* const any = absl::StrContains(ip, ':') ? "::" : "0.0.0.0";
  MUSTER_ASSIGN_OR_RETURN(UniqueFd fd, StartConnect(any, ip, port));
  const security::OpensslPtr<SSL_CTX> context = MakeContext(TLS_client_method());
  TlsSocket socket(std::move(fd), security::OpensslPtr<SSL>(SSL_new(context.get())), limit);
  MUSTER_RETURN_IF_ERROR(socket.Wait(POLLOUT));
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(socket.fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return Given(error);
  SSL_set_connect_state(socket.ssl_.get());
  MUSTER_RETURN_IF_ERROR(socket.Handshake());
  const security::OpensslPtr<X509> shown(SSL_get1_peer_certificate(socket.ssl_.get()));
  if (shown == nullptr || X509_cmp(shown.get(), certificate) != 0) {
    return absl::PermissionDeniedError("it shows another certificate than its worker announced");
  }
  return socket;
}

absl::StatusOr<TlsSocket> TlsSocket::Accept(UniqueFd fd, SSL_CTX* context,
                                            const SocketLimit& limit) {
  IgnoreBrokenPipes();
  TlsSocket socket(std::move(fd), security::OpensslPtr<SSL>(SSL_new(context)), limit);
  SSL_set_accept_state(socket.ssl_.get());
  MUSTER_RETURN_IF_ERROR(socket.Handshake());
  return socket;
}

absl::StatusOr<size_t> TlsSocket::Read(char* buffer, size_t size) {
  while (true) {
    ERR_clear_error();
    errno = 0;
    const int result = SSL_read(ssl_.get(), buffer, static_cast<int>(size));
    if (result > 0) return static_cast<size_t>(result);
    const absl::Status waited = WaitFor(result);
    if (absl::IsOutOfRange(waited)) return size_t{0};
    MUSTER_RETURN_IF_ERROR(waited);
  }
}

absl::Status TlsSocket::Write(absl::string_view data) {
  while (!data.empty()) {
    ERR_clear_error();
    errno = 0;
    const int result = SSL_write(ssl_.get(), data.data(), static_cast<int>(data.size()));
    if (result > 0) {
      data.remove_prefix(static_cast<size_t>(result));
      continue;
    }
    MUSTER_RETURN_IF_ERROR(WaitFor(result));
  }
  return absl::OkStatus();
}

void TlsSocket::Close() {
  ERR_clear_error();
  SSL_shutdown(ssl_.get());
  ERR_clear_error();
}

}  // namespace muster::worker
