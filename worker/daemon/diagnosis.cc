#include "worker/daemon/diagnosis.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/log.h"
#include "worker/daemon/network_interfaces.h"
#include "worker/daemon/process_identity.h"
#include "worker/daemon/rank_files.h"
#include "worker/daemon/stack_reader.h"

namespace muster::worker {
namespace {

// Whether a process in this state can still answer.
bool Answers(const std::string& state) {
  return state != "T" && state != "t" && state != "Z" && state != "X" && !state.empty();
}

void AddError(const std::string& error, v1::RankDiagnosis* rank) {
  rank->set_error(rank->error().empty() ? error : absl::StrCat(rank->error(), "; ", error));
}

}  // namespace

// The dials of one request, each with an end of its own.
class Diagnoser::Dials {
 public:
  explicit Dials(int count) : open_(count) {}

  void Ended(const std::string& node, const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    --open_;
    if (!status.ok() && !absl::IsCancelled(status)) failed_[node] = std::string(status.message());
  }
  std::map<std::string, std::string> Await() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Dials::AllEnded));
    return failed_;
  }

 private:
  bool AllEnded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_ <= 0; }

  absl::Mutex mutex_;
  int open_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> failed_ ABSL_GUARDED_BY(mutex_);
};

Diagnoser::Diagnoser(const Deps& deps)
    : deps_(deps), dialler_(deps.node, *deps.clock, {.deadline = kDialTimeout}) {}

Diagnoser::~Diagnoser() {
  std::list<Work> works;
  {
    absl::MutexLock lock(&mutex_);
    works.splice(works.begin(), works_);
  }
  for (Work& work : works) work.thread.join();
}

void Diagnoser::Start(const v1::DiagnosisRequest& request) {
  absl::MutexLock lock(&mutex_);
  for (auto it = works_.begin(); it != works_.end();) {
    if (it->finished) it->thread.join();
    it = it->finished ? works_.erase(it) : std::next(it);
  }
  if (static_cast<int>(works_.size()) >= kMostAtATime) {
    v1::Diagnosis refused;
    refused.set_request_id(request.request_id());
    refused.set_job(request.job());
    refused.set_generation(request.generation());
    refused.set_error(absl::StrCat("nodes/", deps_.node, " looks at other jobs"));
    deps_.outbox->AddDiagnosis(refused);
    return;
  }
  Work& work = works_.emplace_back();
  work.thread = std::thread([this, &work, request] {
    deps_.outbox->AddDiagnosis(Diagnose(request));
    absl::MutexLock finish(&mutex_);
    work.finished = true;
  });
}

v1::RankDiagnosis Diagnoser::LookAt(const v1::Allocation& allocation, int rank,
                                    pid_t* process) const {
  v1::RankDiagnosis diagnosis;
  diagnosis.set_rank(rank);
  *process = 0;
  const std::optional<v1::TrainProgress> progress =
      deps_.progress->Find(allocation.job(), allocation.generation(), rank);
  if (progress.has_value()) {
    diagnosis.set_phase(progress->phase());
    diagnosis.set_step(progress->step());
  }
  const auto processes = ReadRankProcesses(deps_.state->RankFolder(allocation, rank));
  if (!processes.ok()) {
    AddError(std::string(processes.status().message()), &diagnosis);
  } else if (IsRunning(processes->trainer)) {
    *process = processes->trainer.pid;
    diagnosis.set_process_state(StateOf(*process));
  }
  return diagnosis;
}

v1::Diagnosis Diagnoser::Diagnose(const v1::DiagnosisRequest& request) {
  v1::Diagnosis diagnosis;
  diagnosis.set_request_id(request.request_id());
  diagnosis.set_job(request.job());
  diagnosis.set_generation(request.generation());
  const absl::StatusOr<AllocationManager::Held> held =
      deps_.manager->FindHeld(request.job(), request.generation());
  if (!held.ok()) {
    diagnosis.set_error(std::string(held.status().message()));
    return diagnosis;
  }
  const v1::Allocation& allocation = held->allocation;
  base::Log(base::LogSeverity::kWarning, "worker", "the ranks do not advance; looking why",
            {{"job", request.job()}, {"generation", request.generation()}});
  deps_.collectives->Ask(request.job(), request.generation(),
                         {allocation.ranks().begin(), allocation.ranks().end()});

  const absl::StatusOr<InterfaceAddress> from =
      ChooseInterface(ListInterfaceAddresses(), allocation.config().distributed().interface(),
                      held->node_address, request.peers().empty(), deps_.node);
  const auto dials = std::make_shared<Dials>(from.ok() ? request.peers_size() : 0);
  for (const v1::Peer& peer : request.peers()) {
    if (!from.ok()) break;
    dialler_.Dial(
        {.job = request.job(),
         .generation = request.generation(),
         .interface = allocation.config().distributed().interface(),
         .from = *from,
         .peers = {peer}},
        [dials, node = peer.node()](const absl::Status& status) { dials->Ended(node, status); });
  }

  std::map<int, pid_t> processes;
  std::set<int> awaited;
  for (const int rank : allocation.ranks()) {
    if (Answers(LookAt(allocation, rank, &processes[rank]).process_state())) awaited.insert(rank);
  }
  const std::map<int, internal::CollectiveDump> dumps =
      deps_.collectives->Collect(request.job(), request.generation(), awaited, kCollectivesTimeout);

  const absl::Duration deadline = deps_.clock->Monotonic() + kStacksTimeout;
  for (const int rank : allocation.ranks()) {
    // Anew: a state that lasts is one that matters.
    v1::RankDiagnosis seen = LookAt(allocation, rank, &processes[rank]);
    if (const auto dump = dumps.find(rank); dump != dumps.end()) {
      *seen.mutable_collectives() = dump->second.collectives();
      if (!dump->second.error().empty()) AddError(dump->second.error(), &seen);
    } else if (awaited.count(rank) > 0) {
      AddError("its trainer did not answer", &seen);
    }
    const absl::Duration left = deadline - deps_.clock->Monotonic();
    if (processes[rank] != 0 && left > absl::ZeroDuration()) {
      const auto stacks = ReadStacks(processes[rank], {.timeout = left});
      if (stacks.ok()) {
        seen.set_stack(DescribeStacks(processes[rank], *stacks));
      } else {
        AddError(absl::StrCat("no stack: ", stacks.status().message()), &seen);
      }
    }
    *diagnosis.add_ranks() = std::move(seen);
  }
  for (const auto& [node, reason] : dials->Await()) {
    v1::UnreachablePeer* peer = diagnosis.add_unreachable();
    peer->set_node(node);
    peer->set_reason(reason);
  }
  return diagnosis;
}

}  // namespace muster::worker
