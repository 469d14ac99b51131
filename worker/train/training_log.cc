#include "worker/train/training_log.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/train/step_agreement.h"
#include <nlohmann/json.hpp>

namespace muster::train {
namespace {

constexpr int kStepsPerLine = 50;
constexpr absl::Duration kTimePerLine = absl::Seconds(10);
constexpr double kMeanWeight = 0.05;

std::string LinesUpTo(const std::string& text, int64_t step) {
  std::string kept;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // cut off by a crash
    const std::string line = text.substr(begin, end - begin);
    const nlohmann::json entry = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (entry.is_object() && entry.contains("step") && entry["step"].is_number_integer() &&
        entry["step"].get<int64_t>() <= step) {
      absl::StrAppend(&kept, line, "\n");
    }
    begin = end + 1;
  }
  return kept;
}

std::string FormatEta(absl::Duration eta) {
  const int64_t seconds = absl::ToInt64Seconds(eta);
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingLog>> TrainingLog::Open(const Options& options,
                                                               int64_t resume_step) {
  const std::filesystem::path path = options.folder / "metrics.jsonl";
  std::string kept;
  if (resume_step > 0) {
    const absl::StatusOr<std::string> old = base::ReadFile(path);
    if (old.ok()) kept = LinesUpTo(*old, resume_step);
  }
  MUSTER_RETURN_IF_ERROR(base::WriteFileAtomically(path, kept));
  std::ofstream file(path, std::ios::app);
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path.string()));
  return std::unique_ptr<TrainingLog>(new TrainingLog(options, std::move(file)));
}

TrainingLog::TrainingLog(const Options& options, std::ofstream file)
    : options_(options), file_(std::move(file)) {}

void TrainingLog::AddStep(const StepRecord& record) {
  const double seconds = absl::ToDoubleSeconds(record.duration);
  const double weight = seconds_per_step_ == 0 ? 1 : kMeanWeight;
  seconds_per_step_ += weight * (seconds - seconds_per_step_);
  images_per_step_ = record.images;

  nlohmann::ordered_json line;
  line["mode"] = "train";
  line["epoch"] = record.epoch;
  line["step"] = record.step;
  line["lr"] = record.learning_rate;
  for (size_t i = 0; i < kLossNames.size(); ++i) line[kLossNames[i]] = record.losses[i];
  line["loss"] = record.loss;
  line["grad_norm"] = record.grad_norm;
  line["time"] = seconds;
  line["data_time"] = absl::ToDoubleSeconds(record.data_duration);
  line["images_per_second"] = images_per_second();
  // A full disk loses lines, not the run.
  file_ << line.dump() << "\n" << std::flush;
  file_.clear();

  ++steps_;
  for (size_t i = 0; i < sums_.losses.size(); ++i) sums_.losses[i] += record.losses[i];
  sums_.loss += record.loss;
  sums_.grad_norm += record.grad_norm;
  sums_.duration += record.duration;
  sums_.data_duration += record.data_duration;
  if (steps_ >= kStepsPerLine || sums_.duration >= kTimePerLine ||
      record.step_in_epoch == options_.steps_per_epoch) {
    bar_.Clear();
    PrintLine(record);
    steps_ = 0;
    sums_ = {};
  }
  if (bar_epoch_ != record.epoch) {
    bar_epoch_ = record.epoch;
    bar_.Start(absl::StrCat("epoch ", record.epoch, "/", options_.total_epochs));
  }
  bar_.Update(record.step_in_epoch, options_.steps_per_epoch,
              absl::StrFormat("loss %.4f, %.1f images/s, %s left", record.loss, images_per_second(),
                              FormatEta(eta(record.step))));
}

void TrainingLog::ShowEvaluation(int64_t done, int64_t total) {
  if (bar_epoch_ != 0) {
    bar_epoch_ = 0;
    bar_.Start("evaluating");
  }
  bar_.Update(done, total);
}

void TrainingLog::PrintLine(const StepRecord& record) {
  std::string line = absl::StrFormat(
      "Epoch [%d][%d/%d] lr: %.3e, eta: %s, time: %.3f, data_time: %.3f", record.epoch,
      record.step_in_epoch, options_.steps_per_epoch, record.learning_rate,
      FormatEta(eta(record.step)), absl::ToDoubleSeconds(sums_.duration) / steps_,
      absl::ToDoubleSeconds(sums_.data_duration) / steps_);
  for (size_t i = 0; i < kLossNames.size(); ++i) {
    absl::StrAppendFormat(&line, ", %s: %.4f", kLossNames[i], sums_.losses[i] / steps_);
  }
  absl::StrAppendFormat(&line, ", loss: %.4f, grad_norm: %.3f", sums_.loss / steps_,
                        sums_.grad_norm / steps_);
  base::Log(base::LogSeverity::kInfo, "trainer", line);
}

void TrainingLog::AddEvaluation(const eval::CocoResult& result, int epoch, int64_t step) {
  bar_.Clear();
  nlohmann::ordered_json line;
  line["mode"] = "val";
  line["epoch"] = epoch;
  line["step"] = step;
  for (const eval::NamedFigure& figure : eval::NamedFigures(result.figures)) {
    line[figure.name] = figure.value;
  }
  nlohmann::ordered_json classes = nlohmann::ordered_json::object();
  for (const eval::CategoryFigures& category : result.categories) {
    classes[category.name] = category.ap;
  }
  line["classes"] = classes;
  file_ << line.dump() << "\n" << std::flush;
  file_.clear();
  std::string text = absl::StrFormat("Epoch(val) [%d]", epoch);
  for (const eval::NamedFigure& figure : eval::NamedFigures(result.figures)) {
    absl::StrAppendFormat(&text, " %s: %.4f", figure.name, figure.value);
  }
  base::Log(base::LogSeverity::kInfo, "trainer", text);
}

double TrainingLog::images_per_second() const {
  return seconds_per_step_ > 0 ? images_per_step_ / seconds_per_step_ : 0;
}

absl::Duration TrainingLog::eta(int64_t step) const {
  return absl::Seconds(seconds_per_step_) *
         static_cast<double>(std::max<int64_t>(0, options_.total_steps - step));
}

}  // namespace muster::train
