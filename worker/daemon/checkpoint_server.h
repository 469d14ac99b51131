#pragma once

#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/security/openssl_objects.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/state_folder.h"
#include "worker/daemon/tls_socket.h"

namespace muster::worker {

// Hands the checkpoints on this node's disk to other workers (checkpoint_fetcher.h), over HTTPS:
//
//   GET /checkpoints/{job}/{job_uid}/{file}          the file; "Range: bytes=N-" for its end
//   GET /checkpoints/{job}/{job_uid}/{file}.json     its description, a Checkpoint as proto3 JSON
//   GET /checkpoints/{job}/{job_uid}/{file}.sha256   of the file, hexadecimal
//
// Only what checkpoint::ListCheckpoints finds in the job's output folder, and only to who has the
// token (401). Certificate and token are made anew by each object, and the coordinator alone is
// told. Whoever can reach the port without the token may hold one of the few places for some
// seconds; further connections wait. Thread-safe.
class CheckpointServer {
 public:
  struct Options {
    int most_connections = 16;
    // From a connection until its request has come.
    absl::Duration request_timeout = absl::Seconds(10);
    // Then without a byte.
    absl::Duration silence = absl::Seconds(10);
  };

  // `node` without "nodes/".
  CheckpointServer(std::string node, const StateFolder& state, const base::Clock& clock)
      : CheckpointServer(std::move(node), state, clock, Options()) {}
  CheckpointServer(std::string node, const StateFolder& state, const base::Clock& clock,
                   const Options& options);
  // Breaks off what is under way.
  ~CheckpointServer();
  CheckpointServer(const CheckpointServer&) = delete;
  CheckpointServer& operator=(const CheckpointServer&) = delete;

  // Listens on a free port of `ip` from now on, in place of an earlier address; what is under way
  // there goes on. What a worker that fetches must know; the same when it listens on `ip` already.
  absl::StatusOr<v1::CheckpointServer> Listen(const std::string& ip);

 private:
  struct Connection {
    std::thread thread;
    bool finished = false;
  };
  using Context = std::shared_ptr<SSL_CTX>;

  void Run();
  void Accept();
  void Serve(UniqueFd fd, const Context& context) const;
  absl::Status Answer(TlsSocket* socket) const;
  // Joins what has finished; how many connections are left.
  int Sweep();

  const std::string node_;
  const StateFolder& state_;
  const base::Clock& clock_;
  const Options options_;
  const std::string token_;
  // Readable once the object ends; and when the thread must look around.
  const UniqueFd stop_;
  const UniqueFd wake_;
  absl::Mutex mutex_;
  std::string ip_ ABSL_GUARDED_BY(mutex_);
  v1::CheckpointServer description_ ABSL_GUARDED_BY(mutex_);
  UniqueFd listener_ ABSL_GUARDED_BY(mutex_);
  Context context_ ABSL_GUARDED_BY(mutex_);
  std::list<Connection> connections_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace muster::worker
