// The part of ClusterState that finds out why a job's ranks do not advance.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "coordinator/core/cluster_state.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

constexpr int kDiagnosisProtocol = 2;
// Each node dials so many of those that follow it: up to 33 nodes see all links between them.
constexpr int kDialledPeers = 16;

}  // namespace

bool ClusterState::SomeAreSilent() const {
  return std::any_of(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return entry.second.state != v1::Node::STATE_READY && !entry.second.jobs.empty();
  });
}

bool ClusterState::AllHeard(const JobMachine& job) const {
  const auto& shares = job.record().shares();
  return std::all_of(shares.begin(), shares.end(), [&](const internal::ShareRecord& share) {
    return share.ended() || Node(share.node()).state == v1::Node::STATE_READY;
  });
}

void ClusterState::WatchForHang(JobMachine* job, bool some_are_silent, absl::Duration passed,
                                Step* step) {
  if (job->job().state() != v1::Job::STATE_RUNNING) return;
  // Ranks there may well advance, and when they do not, the silence is what ends the generation.
  if (some_are_silent && !AllHeard(*job)) job->ForgiveSilence(passed);
  if (job->HangSuspected(step->now)) {
    AskWhyItHangs(job, step);
  } else if (job->HangDiagnosed(step->now)) {
    Drive(job, step, [&](JobOutput* out) { job->EndHang(step->now, out); });
  }
  if (job->StragglersDue(step->now)) {
    Drive(job, step, [&](JobOutput* out) { job->JudgeStragglers(step->now, out); });
  }
}

void ClusterState::AskWhyItHangs(JobMachine* job, Step* step) {
  const int64_t request_id = ++last_diagnosis_;
  const auto& shares = job->record().shares();
  std::map<std::string, std::string> unasked;
  for (int i = 0; i < shares.size(); ++i) {
    const NodeEntry& node = Node(shares[i].node());
    if (shares[i].ended()) {
      unasked[shares[i].node()] = "its ranks have ended";
      continue;
    }
    if (node.session == 0) {
      unasked[shares[i].node()] = absl::StrCat("nodes/", shares[i].node(), " is not connected");
      continue;
    }
    if (node.protocol < kDiagnosisProtocol) {
      unasked[shares[i].node()] = absl::StrCat("the worker of nodes/", shares[i].node(),
                                               " is of an older release, which cannot say");
      continue;
    }
    SessionMessage message;
    message.session = node.session;
    v1::DiagnosisRequest* request = message.message.mutable_diagnosis_request();
    request->set_request_id(request_id);
    request->set_job(job->job().name());
    request->set_generation(job->job().generation());
    for (int next = 1; next <= std::min(kDialledPeers, shares.size() - 1); ++next) {
      const std::string& peer = shares[(i + next) % shares.size()].node();
      const std::string& address = Node(peer).record.inventory().probe_address();
      if (address.empty()) continue;
      request->add_peers()->set_node(peer);
      request->mutable_peers()->rbegin()->set_probe_address(address);
    }
    step->effects.messages.push_back(std::move(message));
  }
  step->effects.log.push_back(
      LogLine{base::LogSeverity::kWarning,
              absl::StrCat("no rank made a step for ", InWords(job->Stalled(step->now)),
                           "; its nodes are asked why"),
              job->job().name(), ""});
  job->BeginHangInquiry(request_id, unasked, step->now);
}

void ClusterState::Handle(const DiagnosisCommand& command, Step* step) {
  NodeEntry* node = Heard(command.session, step);
  JobMachine* job = node == nullptr ? nullptr : Find(command.diagnosis.job());
  if (job != nullptr) job->TakeDiagnosis(node->record.name(), command.diagnosis);
}

std::vector<ClusterState::RankScore> ClusterState::RankScores() const {
  std::vector<RankScore> scores;
  for (const auto& [sequence, live] : live_.jobs()) {
    for (const v1::RankPlacement& rank : jobs_.at(live.name).job().ranks()) {
      if (rank.straggler_score() == 0) continue;
      scores.push_back({live.name, rank.rank(), rank.node(), rank.straggler_score()});
    }
  }
  return scores;
}

}  // namespace muster::coordinator
