// `muster watch`: the live view.
#include <google/protobuf/util/time_util.h>

#include <memory>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/interrupt.h"
#include "common/base/exit_codes.h"

namespace muster::cli {
namespace {

bool HasEnded(const v1::Job& job) {
  return job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
         job.state() == v1::Job::STATE_CANCELLED;
}

// Draws each message: on a terminal a block that is drawn over itself below the events, elsewhere a
// line for each event and evaluation, and at most one of progress every few seconds.
class WatchPrinter {
 public:
  WatchPrinter(bool json, const Context& context) : json_(json), context_(context) {}

  void Print(const v1::WatchJobResponse& response) {
    const v1::Job& job = response.job();
    if (json_) {
      context_.out << ToJson(response) << std::endl;
      return;
    }
    std::string text;
    if (drawn_lines_ > 0) text = absl::StrCat("\033[", drawn_lines_, "A\033[J");
    for (const v1::JobEvent& event : response.events())
      absl::StrAppend(&text, EventLine(event), "\n");
    if (context_.terminal) {
      const std::vector<std::string> lines = LiveView(job, context_.view());
      for (const std::string& line : lines) absl::StrAppend(&text, line, "\n");
      drawn_lines_ = static_cast<int>(lines.size());
    } else {
      for (int i = evaluations_; i < job.evaluations_size(); ++i) {
        absl::StrAppend(&text, EvaluationLine(job.evaluations(i)), "\n");
      }
      evaluations_ = job.evaluations_size();
      const int64_t now = job.progress().time().seconds();
      if (job.state() == v1::Job::STATE_RUNNING && now >= last_progress_ + kProgressSeconds) {
        last_progress_ = now;
        absl::StrAppend(&text, ProgressLine(job), "\n");
      }
    }
    context_.out << text << std::flush;
  }

  // What is printed from here on stays below the block.
  void Leave() { drawn_lines_ = 0; }

 private:
  static constexpr int64_t kProgressSeconds = 5;

  const bool json_;
  const Context& context_;
  int drawn_lines_ = 0;
  int evaluations_ = 0;
  int64_t last_progress_ = 0;
};

}  // namespace

int Watch(const std::string& name, bool json, const Context& context) {
  absl::Mutex mutex;
  grpc::ClientContext* current = nullptr;  // guarded by mutex
  const InterruptWatcher interrupt([&] {
    absl::MutexLock lock(&mutex);
    if (current != nullptr) current->TryCancel();
  });

  WatchPrinter printer(json, context);
  v1::Job job;
  v1::WatchJobRequest request;
  request.set_name(JobName(name));
  bool connected = false;
  bool told = false;
  while (true) {
    grpc::ClientContext call;
    {
      absl::MutexLock lock(&mutex);
      current = &call;
    }
    const grpc::Status status =
        context.client.WatchJob(call, request, [&](const v1::WatchJobResponse& response) {
          connected = true;
          told = false;
          job = response.job();
          for (const v1::JobEvent& event : response.events())
            request.set_after_sequence(event.sequence());
          printer.Print(response);
          return !HasEnded(job);
        });
    {
      absl::MutexLock lock(&mutex);
      current = nullptr;
    }
    if (HasEnded(job)) break;
    if (interrupt.interrupted()) {
      context.err << job.name() << " runs on; see it again with: muster watch " << JobName(name)
                  << "\n";
      return base::kExitCompleted;
    }
    // Training goes on without the coordinator, so watching waits for it, once it has been there.
    if (!connected || (!status.ok() && status.error_code() != grpc::StatusCode::UNAVAILABLE)) {
      context.err << "muster: " << context.client.Explain(status) << "\n";
      return ExitCodeFor(status);
    }
    if (!told) {
      printer.Leave();
      context.err << "muster: the coordinator is away; training goes on, waiting for it\n";
      told = true;
    }
    interrupt.WaitFor(absl::Seconds(1));
  }
  if (job.state() == v1::Job::STATE_SUCCEEDED) return base::kExitCompleted;
  context.err << "muster: " << job.name() << " " << StateName(job.state())
              << (job.state_reason().empty() ? "" : ": ") << job.state_reason() << "\n";
  return base::kExitJobFailed;
}

}  // namespace muster::cli
