// The part of JobMachine that sees whether the ranks advance, and in one time.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

#include "coordinator/core/hang_attribution.h"
#include "coordinator/core/job_machine.h"
#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

// What the workers need at most (diagnosis.h), and some for the way.
constexpr absl::Duration kDiagnosisPatience = absl::Seconds(10);
constexpr size_t kMostStackLines = 100;
// Scores change slowly.
constexpr absl::Duration kJudgeInterval = absl::Seconds(2);

}  // namespace

void JobMachine::WatchGeneration(Instant now) {
  hang_watch_ = HangWatch(now.monotonic);
  hang_inquiry_.reset();
  hang_blame_.clear();
  stragglers_ = StragglerWatch(job().ranks_size());
}

void JobMachine::NoteStep(int64_t step, Instant now) {
  hang_watch_.Step(step, now.monotonic);
  hang_inquiry_.reset();
}

void JobMachine::NoteEvaluation(int rank, int64_t images_left, Instant now) {
  if (hang_watch_.Evaluate(rank, images_left, now.monotonic)) hang_inquiry_.reset();
}

void JobMachine::NoteMove(Instant now) {
  hang_watch_.Move(now.monotonic);
  hang_inquiry_.reset();
}

void JobMachine::Forgive(absl::Duration pause) {
  phase_start_ += pause;
  hang_watch_.Forgive(pause);
  if (hang_inquiry_.has_value()) hang_inquiry_->deadline += pause;
}

void JobMachine::ForgiveSilence(absl::Duration pause) {
  hang_watch_.Forgive(pause);
  hang_inquiry_.reset();
}

bool JobMachine::HangSuspected(Instant now) const {
  return job().state() == v1::Job::STATE_RUNNING && !hang_inquiry_.has_value() &&
         hang_watch_.Overdue(now.monotonic);
}

void JobMachine::BeginHangInquiry(int64_t request_id,
                                  const std::map<std::string, std::string>& unasked, Instant now) {
  hang_inquiry_.emplace();
  hang_inquiry_->request_id = request_id;
  hang_inquiry_->deadline = now.monotonic + kDiagnosisPatience;
  for (const auto& [node, reason] : unasked) {
    hang_inquiry_->answers[node].set_error(reason);
  }
}

void JobMachine::TakeDiagnosis(absl::string_view node, const v1::Diagnosis& diagnosis) {
  if (!hang_inquiry_.has_value() || diagnosis.request_id() != hang_inquiry_->request_id ||
      diagnosis.generation() != job().generation() || FindShare(node) == nullptr) {
    return;
  }
  hang_inquiry_->answers[std::string(node)] = diagnosis;
}

bool JobMachine::HangDiagnosed(Instant now) const {
  if (job().state() != v1::Job::STATE_RUNNING || !hang_inquiry_.has_value()) return false;
  return now.monotonic >= hang_inquiry_->deadline ||
         static_cast<int>(hang_inquiry_->answers.size()) == record_.shares_size();
}

HangVerdict JobMachine::JudgeHang(Instant now) const {
  HangEvidence evidence;
  evidence.stalled = hang_watch_.Stalled(now.monotonic);
  for (const v1::RankPlacement& placement : job().ranks()) {
    const std::string node(absl::StripPrefix(placement.node(), "nodes/"));
    // Ranks that are done wait for nobody.
    if (const auto* share = FindShare(node); share == nullptr || share->ended()) continue;
    HangEvidence::Rank rank;
    rank.rank = placement.rank();
    rank.node = placement.node();
    const auto answer = hang_inquiry_->answers.find(node);
    if (answer == hang_inquiry_->answers.end()) {
      rank.unknown = absl::StrCat(placement.node(), " did not answer");
    } else {
      rank.unknown = answer->second.error();
      for (const v1::RankDiagnosis& diagnosis : answer->second.ranks()) {
        if (diagnosis.rank() == rank.rank) rank.diagnosis = &diagnosis;
      }
    }
    evidence.ranks.push_back(std::move(rank));
  }
  for (const auto& [node, diagnosis] : hang_inquiry_->answers) {
    for (const v1::UnreachablePeer& peer : diagnosis.unreachable()) {
      evidence.unreachable.push_back(
          {absl::StrCat("nodes/", node), absl::StrCat("nodes/", peer.node()), peer.reason()});
    }
  }
  return AttributeHang(evidence);
}

void JobMachine::EndHang(Instant now, JobOutput* out) {
  const HangVerdict verdict = JudgeHang(now);
  hang_inquiry_.reset();
  v1::RankFailure failure;
  failure.set_rank(std::max(verdict.rank, 0));
  failure.set_node(verdict.node);
  failure.set_generation(job().generation());
  failure.set_message(absl::StrCat("hang: ", verdict.message));
  for (const std::string& line : verdict.stack) {
    if (static_cast<size_t>(failure.stderr_tail_size()) == kMostStackLines) break;
    failure.add_stderr_tail(line);
  }
  *failure.mutable_time() = ToTimestamp(now.wall);
  if (verdict.blames_node) hang_blame_ = verdict.node;
  out->hang_cause = CauseName(verdict.cause);
  AddEvent("Hang", verdict.message, now, out)->set_node(verdict.node);
  *record_.mutable_job()->mutable_first_failure() = failure;
  EndGeneration(failure.message(), now, out);
}

void JobMachine::NoteStepTimes(const v1::RankProgress& progress, JobOutput* out) {
  if (progress.compute_seconds() <= 0) return;
  stragglers_.Note(progress.rank(), progress.compute_seconds(), progress.wait_seconds());
  if (static_cast<size_t>(progress.rank()) >= stragglers_.ranks().size()) return;
  const StragglerWatch::Rank& mean = stragglers_.ranks()[progress.rank()];
  v1::RankPlacement* rank = record_.mutable_job()->mutable_ranks(progress.rank());
  rank->set_compute_seconds(mean.compute_seconds);
  rank->set_wait_seconds(mean.wait_seconds);
  out->changed = true;
}

bool JobMachine::StragglersDue(Instant now) const {
  return job().state() == v1::Job::STATE_RUNNING && job().ranks_size() > 1 &&
         now.monotonic - stragglers_judged_ >= kJudgeInterval;
}

void JobMachine::JudgeStragglers(Instant now, JobOutput* out) {
  stragglers_judged_ = now.monotonic;
  const std::vector<StragglerWatch::Change> changes = stragglers_.Judge(now.monotonic);
  auto* ranks = record_.mutable_job()->mutable_ranks();
  for (size_t i = 0; i < stragglers_.ranks().size() && i < static_cast<size_t>(ranks->size());
       ++i) {
    v1::RankPlacement* rank = ranks->Mutable(static_cast<int>(i));
    const double score = stragglers_.ranks()[i].score;
    if (score == 0 || rank->straggler_score() == score) continue;
    rank->set_straggler_score(score);
    out->changed = true;
  }
  for (const StragglerWatch::Change& change : changes) {
    const v1::RankPlacement& rank = ranks->Get(change.rank);
    const std::string who = absl::StrCat("rank ", rank.rank(), " on ", rank.node());
    AddEvent(
        change.straggles ? "Straggler" : "StragglerOver",
        absl::StrFormat("%s works %.3f s on a step, %.2f times as long as the median rank; it "
                        "waits %.3f s for others",
                        who, rank.compute_seconds(), rank.straggler_score(), rank.wait_seconds()),
        now, out)
        ->set_node(rank.node());
  }
}

}  // namespace muster::coordinator
