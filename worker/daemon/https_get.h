#pragma once

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/tls_socket.h"

namespace muster::worker {

struct HttpsAnswer {
  int status = 0;
  // Of the body.
  int64_t length = 0;
};

// GETs the path from another worker's CheckpointServer, from byte `from` of the file on. `on_head`
// says whether the body is wanted; `on_data` gets it in pieces. Their errors end the connection and
// come back. Else those of TlsSocket, Unavailable also for an answer that is cut off, and
// InvalidArgument for one that is not HTTP or of unknown length.
absl::Status HttpsGet(const v1::CheckpointServer& server, const std::string& path, int64_t from,
                      const SocketLimit& limit,
                      absl::FunctionRef<absl::Status(const HttpsAnswer&)> on_head,
                      absl::FunctionRef<absl::Status(absl::string_view)> on_data);

}  // namespace muster::worker
