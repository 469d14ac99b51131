#include "cli/format.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace muster::cli {
namespace {

// Characters on the screen of a UTF-8 text without control sequences.
size_t DisplayWidth(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string DurationText(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(duration));
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 3600) return absl::StrFormat("%dm %02ds", seconds / 60, seconds % 60);
  if (seconds < 86400) return absl::StrFormat("%dh %02dm", seconds / 3600, seconds / 60 % 60);
  return absl::StrFormat("%dd %02dh", seconds / 86400, seconds / 3600 % 24);
}

std::string AgeText(const google::protobuf::Timestamp& time, absl::Time now) {
  if (time.seconds() == 0) return "-";
  const absl::Duration age =
      now - absl::FromUnixNanos(google::protobuf::util::TimeUtil::TimestampToNanoseconds(time));
  if (age < absl::Seconds(1)) return "just now";
  return absl::StrCat(DurationText(age), " ago");
}

std::string StateName(v1::Job::State state) {
  return std::string(absl::StripPrefix(v1::Job::State_Name(state), "STATE_"));
}

std::string ProgressBar(double share, int width) {
  const int full = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * width));
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? "█" : "░";
  return bar;
}

std::string Sparkline(const std::vector<double>& values) {
  static constexpr const char* kLevels[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string line;
  if (values.empty()) return line;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  for (const double value : values) {
    const double share = *high > *low ? (value - *low) / (*high - *low) : 0;
    line += kLevels[std::lround(share * 7)];
  }
  return line;
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string table;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      table += row[i];
      if (i + 1 < row.size()) table.append(widths[i] + 2 - DisplayWidth(row[i]), ' ');
    }
    table += '\n';
  }
  return table;
}

std::string ToJson(const google::protobuf::Message& message) {
  std::string json;
  // Fails only for an Any of unknown type, which no message of ours holds.
  if (!google::protobuf::util::MessageToJsonString(message, &json).ok()) return "{}";
  return json;
}

std::string Emphasize(absl::string_view text, Emphasis emphasis, bool color) {
  if (!color) return std::string(text);
  const char* code = emphasis == Emphasis::kBold    ? "1"
                     : emphasis == Emphasis::kRed   ? "31"
                     : emphasis == Emphasis::kGreen ? "32"
                                                    : "2";
  return absl::StrCat("\033[", code, "m", text, "\033[0m");
}

}  // namespace muster::cli
