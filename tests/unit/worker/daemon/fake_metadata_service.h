#pragma once

#include <httplib.h>

#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace muster::worker {

// Plays the part of Azure's metadata service that is about scheduled events, on a port of loopback.
class FakeMetadataService {
 public:
  FakeMetadataService() {
    server_.Get("/metadata/scheduledevents",
                [this](const httplib::Request& request, httplib::Response& response) {
                  Answer(request, "2020-07-01", Document(), response);
                });
    server_.Get("/metadata/instance/compute/name",
                [this](const httplib::Request& request, httplib::Response& response) {
                  Answer(request, "2021-02-01", "vm-7", response);
                });
    server_.Post("/metadata/scheduledevents",
                 [this](const httplib::Request& request, httplib::Response& response) {
                   Answer(request, "2020-07-01", "", response);
                   if (response.status != 200) return;
                   absl::MutexLock lock(&mutex_);
                   approvals_.push_back(request.body);
                 });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
  }
  ~FakeMetadataService() {
    Hold(false);
    server_.stop();
    thread_.join();
  }

  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_); }

  // Announces an event for vm-7, or changes it.
  void Announce(const std::string& id, const std::string& type,
                const std::string& status = "Scheduled",
                const std::string& not_before = "Mon, 11 Apr 2050 22:26:58 GMT") {
    absl::MutexLock lock(&mutex_);
    events_[id] = absl::StrCat(R"({"EventId": ")", id, R"(", "EventType": ")", type,
                               R"(", "EventStatus": ")", status, R"(", "NotBefore": ")", not_before,
                               R"(", "Resources": ["VM-7", "vm-8"]})");
  }
  void Withdraw(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    events_.erase(id);
  }
  // All calls are answered with this status and body; 200 and "": as they should be.
  void Answer(int status, const std::string& body) {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    body_ = body;
  }
  // Calls wait while it holds them.
  void Hold(bool hold) {
    absl::MutexLock lock(&mutex_);
    hold_ = hold;
  }
  // That have come, held ones included.
  int calls() {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }
  void WaitForCalls(int more) {
    absl::MutexLock lock(&mutex_);
    const int wanted = calls_ + more;
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return calls_ >= wanted; };
    mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20));
  }
  std::vector<std::string> approvals() {
    absl::MutexLock lock(&mutex_);
    return approvals_;
  }

 private:
  std::string Document() {
    absl::MutexLock lock(&mutex_);
    return absl::StrCat(
        R"({"DocumentIncarnation": 1, "Events": [)",
        absl::StrJoin(events_, ",", [](std::string* out, const auto& e) { *out += e.second; }),
        "]}");
  }
  void Answer(const httplib::Request& request, const std::string& version,
              const std::string& document, httplib::Response& response) {
    absl::MutexLock lock(&mutex_);
    ++calls_;
    mutex_.Await(absl::Condition(
        +[](bool* held) { return !*held; }, &hold_));
    const bool good = request.get_header_value("Metadata") == "true" &&
                      request.get_param_value("api-version") == version;
    response.status = good ? status_ : 400;
    response.set_content(body_.empty() ? document : body_, "application/json");
  }

  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  absl::Mutex mutex_;
  std::map<std::string, std::string> events_ ABSL_GUARDED_BY(mutex_);
  int status_ ABSL_GUARDED_BY(mutex_) = 200;
  std::string body_ ABSL_GUARDED_BY(mutex_);
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::string> approvals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muster::worker
