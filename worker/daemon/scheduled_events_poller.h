#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "muster/v1/node.pb.h"

namespace httplib {
class Client;
}

namespace muster::worker {

// Asks Azure's metadata service once a second what it plans for this machine, on a thread of its
// own. What is known stays known while the service fails or answers nonsense; only a document
// without an event ends it.
class ScheduledEventsPoller {
 public:
  struct Options {
    // "http://169.254.169.254"
    std::string url;
    // The machine's name there; empty: asked for.
    std::string vm;
    absl::Duration interval = absl::Seconds(1);
    // The first call switches the service on, which may take two minutes.
    absl::Duration first_timeout = absl::Seconds(130);
    absl::Duration timeout = absl::Seconds(5);
  };
  struct Deps {
    // Both are called from the poller's thread: after each answer, and, following that, after the
    // first one and whenever the events have changed.
    std::function<void(const std::vector<v1::MaintenanceEvent>&)> on_answer;
    std::function<void(const std::vector<v1::MaintenanceEvent>&)> on_change;
  };

  ScheduledEventsPoller(Options options, Deps deps);
  // Breaks off a call under way.
  ~ScheduledEventsPoller();
  ScheduledEventsPoller(const ScheduledEventsPoller&) = delete;
  ScheduledEventsPoller& operator=(const ScheduledEventsPoller&) = delete;

  // Lets the cloud begin with the event before its time. Tried until it is accepted or the event is
  // no longer announced; one that is not is ignored. Returns at once.
  void Approve(const std::string& event_id);

  // InvalidArgument unless it has the form http://HOST[:PORT].
  static absl::Status CheckUrl(const std::string& url);

 private:
  void Run();
  // A call's answer, of at most kMostScheduledEventsBytes.
  absl::StatusOr<std::string> Call(const std::string& method, const std::string& path,
                                   const std::string& body);
  absl::Status LearnName();
  absl::Status Poll();
  void SendApprovals();
  // False when it should end.
  bool Pause();

  Options options_;
  const Deps deps_;
  const std::unique_ptr<httplib::Client> client_;
  // Only the thread uses these.
  bool answered_ = false;
  std::vector<v1::MaintenanceEvent> events_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::string> to_approve_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// Where the machine's events are: `flag` when it is an address, "" for "off" and on machines that
// are not Azure's, which `asset_tag`'s content tells.
std::string ScheduledEventsUrl(
    const std::string& flag, const std::string& asset_tag = "/sys/class/dmi/id/chassis_asset_tag");

}  // namespace muster::worker
