#include "cli/job_view.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "cli/format.h"

namespace muster::cli {
namespace {

using google::protobuf::util::TimeUtil;

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Nanoseconds(TimeUtil::DurationToNanoseconds(duration));
}

double Share(const v1::TrainProgress& progress) {
  return progress.total_steps() > 0
             ? static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps())
             : 0;
}

std::string NodeNames(const v1::Job& job) {
  std::vector<std::string> names;
  for (const v1::RankPlacement& rank : job.ranks()) {
    const std::string name(absl::StripPrefix(rank.node(), "nodes/"));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return absl::StrJoin(names, ", ");
}

// "loss 1.234  rpn_cls 0.210 ...": the sum first, the parts without the prefix they share.
std::string Losses(const v1::TrainProgress& progress) {
  std::string text;
  const std::map<std::string, double> losses(progress.losses().begin(), progress.losses().end());
  if (const auto total = losses.find("loss"); total != losses.end()) {
    absl::StrAppendFormat(&text, "loss %.4f", total->second);
  }
  for (const auto& [name, value] : losses) {
    if (name != "loss")
      absl::StrAppendFormat(&text, "  %s %.4f", absl::StripPrefix(name, "loss_"), value);
  }
  return text;
}

Emphasis EmphasisOf(v1::Job::State state) {
  if (state == v1::Job::STATE_SUCCEEDED) return Emphasis::kGreen;
  if (state == v1::Job::STATE_FAILED || state == v1::Job::STATE_CANCELLED) return Emphasis::kRed;
  return Emphasis::kBold;
}

std::string Phase(const v1::TrainProgress& progress) {
  switch (progress.phase()) {
    case v1::TrainProgress::PHASE_LOADING:
      return "loading";
    case v1::TrainProgress::PHASE_EVALUATING:
      return absl::StrFormat("evaluating %d/%d images", progress.eval_images(),
                             progress.eval_images_total());
    default:
      return "";
  }
}

int CurrentEpoch(const v1::TrainProgress& progress) {
  return std::min(progress.epoch() + 1, std::max(progress.total_epochs(), 1));
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%H:%M:%S", absl::FromUnixNanos(TimeUtil::TimestampToNanoseconds(time)),
                          absl::LocalTimeZone());
}

}  // namespace

std::vector<std::string> LiveView(const v1::Job& job, const ViewOptions& options) {
  std::vector<std::string> lines;
  std::string first =
      absl::StrCat(Emphasize(job.name(), Emphasis::kBold, options.color), "  ",
                   Emphasize(StateName(job.state()), EmphasisOf(job.state()), options.color));
  if (job.generation() > 1) absl::StrAppend(&first, "  generation ", job.generation());
  if (!job.ranks().empty()) absl::StrAppend(&first, "  on ", NodeNames(job));
  lines.push_back(first);
  if (!job.state_reason().empty()) {
    lines.push_back(
        absl::StrCat("  ", Emphasize(job.state_reason(), Emphasis::kDim, options.color)));
  }
  // Equal for all ranks of a node, and only one node has any.
  const auto busy = std::find_if(job.ranks().begin(), job.ranks().end(),
                                 [](const auto& rank) { return !rank.detail().empty(); });
  if (busy != job.ranks().end()) {
    lines.push_back(absl::StrCat("  ", busy->node(), ": ", busy->detail()));
  }
  const v1::TrainProgress& progress = job.progress();
  if (progress.total_steps() > 0) {
    std::string line =
        absl::StrFormat("  epoch %d/%d  step %d/%d  %s %3.0f %%", CurrentEpoch(progress),
                        progress.total_epochs(), progress.step(), progress.total_steps(),
                        ProgressBar(Share(progress), std::clamp(options.width - 60, 10, 40)),
                        100 * Share(progress));
    if (job.state() == v1::Job::STATE_RUNNING && progress.has_eta()) {
      absl::StrAppend(&line, "  ETA ", DurationText(ToDuration(progress.eta())));
    }
    lines.push_back(line);
    std::string rates = absl::StrFormat("  %.1f images/s  lr %.5g  gradient norm %.3g",
                                        progress.images_per_second(), progress.learning_rate(),
                                        progress.grad_norm());
    if (!Phase(progress).empty()) absl::StrAppend(&rates, "  ", Phase(progress));
    lines.push_back(rates);
    if (!progress.losses().empty()) lines.push_back(absl::StrCat("  ", Losses(progress)));
  }
  if (!job.evaluations().empty()) {
    std::vector<double> history;
    for (const v1::EvalResult& result : job.evaluations()) history.push_back(result.ap());
    lines.push_back(absl::StrCat("  ", EvaluationLine(job.evaluations(job.evaluations_size() - 1)),
                                 "  ", Sparkline(history)));
  }
  return lines;
}

std::string ProgressLine(const v1::Job& job) {
  const v1::TrainProgress& progress = job.progress();
  std::string line = StateName(job.state());
  if (progress.total_steps() > 0) {
    absl::StrAppendFormat(&line, "  epoch %d/%d  step %d/%d  %s  lr %.5g  %.1f images/s",
                          CurrentEpoch(progress), progress.total_epochs(), progress.step(),
                          progress.total_steps(), Losses(progress), progress.learning_rate(),
                          progress.images_per_second());
    if (progress.has_eta())
      absl::StrAppend(&line, "  ETA ", DurationText(ToDuration(progress.eta())));
    if (!Phase(progress).empty()) absl::StrAppend(&line, "  ", Phase(progress));
  }
  return line;
}

std::string EventLine(const v1::JobEvent& event) {
  return absl::StrCat(TimeText(event.time()), "  ", event.type(),
                      event.message().empty() ? "" : ": ", event.message());
}

std::string EvaluationLine(const v1::EvalResult& result) {
  return absl::StrFormat("mAP after epoch %d: AP %.3f  AP50 %.3f  AP75 %.3f", result.epoch(),
                         result.ap(), result.ap50(), result.ap75());
}

std::string JobTable(const std::vector<v1::Job>& jobs, absl::Time now) {
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "STATE", "EPOCH", "STEP", "AP", "CREATED", "REASON"}};
  for (const v1::Job& job : jobs) {
    const v1::TrainProgress& progress = job.progress();
    const bool begun = progress.total_steps() > 0;
    rows.push_back({job.name(), StateName(job.state()),
                    begun ? absl::StrCat(progress.epoch(), "/", progress.total_epochs()) : "-",
                    begun ? absl::StrCat(progress.step(), "/", progress.total_steps()) : "-",
                    job.evaluations().empty()
                        ? "-"
                        : absl::StrFormat("%.3f", job.evaluations(job.evaluations_size() - 1).ap()),
                    AgeText(job.create_time(), now), job.state_reason()});
  }
  return FormatTable(rows);
}

std::string Description(const v1::Job& job, const std::vector<v1::JobEvent>& events, absl::Time now,
                        const ViewOptions& options) {
  std::string text = absl::StrCat(absl::StrJoin(LiveView(job, options), "\n"), "\n\n");
  std::vector<std::vector<std::string>> facts = {
      {"uid", job.uid()},
      {"created", AgeText(job.create_time(), now)},
      {"started", AgeText(job.start_time(), now)},
      {"ended", AgeText(job.end_time(), now)},
      {"generation", absl::StrCat(job.generation())},
      {"restarts", absl::StrCat(job.restarts(), " of ", job.config().resources().max_restarts())},
      {"master", job.master().empty() ? "-" : job.master()},
      {"checkpoint",
       job.newest_checkpoint().file().empty()
           ? "-"
           : absl::StrFormat("%s (step %d, generation %d)", job.newest_checkpoint().file(),
                             job.newest_checkpoint().step(),
                             job.newest_checkpoint().generation())}};
  const std::map<std::string, std::string> labels(job.labels().begin(), job.labels().end());
  for (const auto& [name, value] : labels)
    facts.push_back({"label", absl::StrCat(name, "=", value)});
  const std::map<std::string, std::string> environment(job.environment().begin(),
                                                       job.environment().end());
  for (const auto& [name, value] : environment)
    facts.push_back({"environment", absl::StrCat(name, "=", value)});
  text += FormatTable(facts);
  if (!job.ranks().empty()) {
    std::vector<std::vector<std::string>> ranks = {{"RANK", "NODE", "LOCAL RANK", "PHASE", "STEP"}};
    const bool timed = std::any_of(job.ranks().begin(), job.ranks().end(),
                                   [](const auto& rank) { return rank.compute_seconds() > 0; });
    if (timed) ranks[0].insert(ranks[0].end(), {"WORKS", "WAITS", "SCORE"});
    for (const v1::RankPlacement& rank : job.ranks()) {
      ranks.push_back(
          {absl::StrCat(rank.rank()), rank.node(), absl::StrCat(rank.local_rank()),
           rank.detail().empty() ? rank.phase() : absl::StrCat(rank.phase(), ": ", rank.detail()),
           absl::StrCat(rank.step())});
      if (!timed) continue;
      ranks.back().push_back(absl::StrFormat("%.3f s", rank.compute_seconds()));
      ranks.back().push_back(absl::StrFormat("%.3f s", rank.wait_seconds()));
      ranks.back().push_back(
          rank.straggler_score() > 0 ? absl::StrFormat("%.2f", rank.straggler_score()) : "-");
    }
    absl::StrAppend(&text, "\n", FormatTable(ranks));
  }
  if (!job.evaluations().empty()) {
    std::vector<std::vector<std::string>> rows = {
        {"EPOCH", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"}};
    for (const v1::EvalResult& result : job.evaluations()) {
      const auto ratio = [](double value) { return absl::StrFormat("%.3f", value); };
      rows.push_back({absl::StrCat(result.epoch()), ratio(result.ap()), ratio(result.ap50()),
                      ratio(result.ap75()), ratio(result.ap_small()), ratio(result.ap_medium()),
                      ratio(result.ap_large()), ratio(result.ar100())});
    }
    absl::StrAppend(&text, "\n", FormatTable(rows));
  }
  if (job.has_first_failure()) {
    const v1::RankFailure& failure = job.first_failure();
    // A start that took too long is the failure of no process.
    const bool process_ended = failure.signal() != 0 || failure.exit_code() != 0;
    const std::string who = process_ended || failure.message().empty()
                                ? absl::StrFormat("rank %d on %s: ", failure.rank(), failure.node())
                                : "";
    absl::StrAppend(&text, "\n",
                    Emphasize(absl::StrFormat("First failure of generation %d: %s%s",
                                              failure.generation(), who, failure.message()),
                              Emphasis::kRed, options.color),
                    "\n");
    for (const std::string& line : failure.stderr_tail())
      absl::StrAppend(&text, "  | ", line, "\n");
  }
  if (!events.empty()) {
    absl::StrAppend(&text, "\nEvents\n");
    for (const v1::JobEvent& event : events) absl::StrAppend(&text, "  ", EventLine(event), "\n");
  }
  return text;
}

}  // namespace muster::cli
