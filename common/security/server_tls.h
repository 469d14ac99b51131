#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

#include "common/security/tls_files.h"

typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_st SSL;

namespace muster::security {

// The TLS of a server on OpenSSL (the HTTP one: gRPC has its own). Each handshake uses the files as
// they are then; while changed ones cannot be used, the last good ones stay, and a line is logged.
// TLS 1.2 or newer; with a CA every client must show a certificate of it. Thread-safe.
class ServerTls {
 public:
  static absl::StatusOr<std::unique_ptr<ServerTls>> Load(const TlsFiles& files);
  ~ServerTls();
  ServerTls(const ServerTls&) = delete;
  ServerTls& operator=(const ServerTls&) = delete;

  // The context's handshakes call this object, which must live longer.
  void SetUp(SSL_CTX* context);

 private:
  struct Identity;
  explicit ServerTls(const TlsFiles& files) : files_(files) {}

  static absl::StatusOr<std::shared_ptr<const Identity>> Read(const TlsFiles& files);
  static int OnHandshake(SSL* connection, void* self);
  std::shared_ptr<const Identity> Current();

  const TlsFiles files_;
  absl::Mutex mutex_;
  std::shared_ptr<const Identity> identity_ ABSL_GUARDED_BY(mutex_);
  // Of the files as last looked at, good or bad.
  std::string version_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::security
