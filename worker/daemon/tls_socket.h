#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/security/openssl_objects.h"
#include "worker/daemon/process_identity.h"

namespace muster::worker {

// How long a connection may take, and the way out of it.
struct SocketLimit {
  const base::Clock* clock = nullptr;
  // Without a byte in either direction.
  absl::Duration silence;
  // By Clock::Monotonic().
  absl::Duration deadline = absl::InfiniteDuration();
  // Ends all waits once it is readable.
  int stop_fd = -1;
};

// A TCP connection under TLS 1.3. Calls wait within the limit: DeadlineExceeded, or Cancelled when
// the stop descriptor says so; Unavailable when the other side is gone. For one thread at a time.
class TlsSocket {
 public:
  // Connects to the IP address, and goes on only with a server that shows `certificate`
  // (PermissionDenied), to which nothing has been said before.
  static absl::StatusOr<TlsSocket> Connect(const std::string& ip, int port, X509* certificate,
                                           const SocketLimit& limit);
  // The server's side of a connection that was accepted and does not block; `context` has its
  // certificate and key.
  static absl::StatusOr<TlsSocket> Accept(UniqueFd fd, SSL_CTX* context, const SocketLimit& limit);

  // At least one byte; none when the other side has closed in order.
  absl::StatusOr<size_t> Read(char* buffer, size_t size);
  absl::Status Write(absl::string_view data);
  // Says that nothing more comes.
  void Close();
  void SetDeadline(absl::Duration deadline) { limit_.deadline = deadline; }

 private:
  TlsSocket(UniqueFd fd, security::OpensslPtr<SSL> ssl, const SocketLimit& limit);

  absl::Status Wait(short events) const;  // NOLINT(google-runtime-int): poll's type
  // Until the operation, which returned `result`, can go on. OutOfRange at the end of the stream.
  absl::Status WaitFor(int result) const;
  absl::Status Handshake();

  UniqueFd fd_;
  security::OpensslPtr<SSL> ssl_;
  SocketLimit limit_;
};

// A context for TlsSocket::Accept.
absl::StatusOr<security::OpensslPtr<SSL_CTX>> MakeServerContext(X509* certificate, EVP_PKEY* key);

}  // namespace muster::worker
