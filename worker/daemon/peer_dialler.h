#pragma once

#include <functional>
#include <list>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "muster/v1/worker_service.pb.h"
#include "worker/daemon/network_interfaces.h"
#include "worker/daemon/process_identity.h"

namespace muster::worker {

// Looks whether this node can reach the other nodes of a generation, before any rank starts: dials
// each one's ProbeServer from the address that the ranks will use, sees that it is the node that it
// should be, and dials the ports that it opens. Thread-safe.
class PeerDialler {
 public:
  struct Options {
    // For all dials of one peer. Until then a dial that fails is tried again.
    absl::Duration deadline = absl::Seconds(5);
    absl::Duration pause = absl::Milliseconds(200);
  };
  struct Request {
    std::string job;
    int64_t generation = 0;
    // distributed.interface
    std::string interface;
    // This node's end.
    InterfaceAddress from;
    std::vector<v1::Peer> peers;
  };
  // OK, or Unavailable with one line that names both ends.
  using Done = std::function<void(const absl::Status&)>;

  // `node` without "nodes/".
  PeerDialler(std::string node, const base::Clock& clock)
      : PeerDialler(std::move(node), clock, Options()) {}
  PeerDialler(std::string node, const base::Clock& clock, Options options);
  // Gives up what is under way, whose callbacks come before it returns.
  ~PeerDialler();
  PeerDialler(const PeerDialler&) = delete;
  PeerDialler& operator=(const PeerDialler&) = delete;

  // Dials all of them in parallel; with the first failure, no further ones. `done` is called once,
  // from a thread of the dialler's.
  void Dial(Request request, Done done);

 private:
  struct Work {
    std::thread thread;
    bool finished = false;
  };

  absl::Status DialAll(const Request& request);
  absl::Status DialPeer(const Request& request, const v1::Peer& peer);

  const std::string node_;
  const base::Clock& clock_;
  const Options options_;
  // Readable once the object ends.
  const UniqueFd stop_;
  absl::Mutex mutex_;
  std::list<Work> works_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
