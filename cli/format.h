#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"

#include "muster/v1/job.pb.h"

// Text for people. All functions are pure.
namespace muster::cli {

// "42s", "3m 12s", "2h 05m", "3d 04h".
std::string DurationText(absl::Duration duration);

// "just now", "3m 12s ago", ...; "-" for a time that is not set.
std::string AgeText(const google::protobuf::Timestamp& time, absl::Time now);

// "RUNNING".
std::string StateName(v1::Job::State state);

// A bar of `width` cells for a share 0..1.
std::string ProgressBar(double share, int width);

// One block character a value, scaled from the smallest to the largest.
std::string Sparkline(const std::vector<double>& values);

// Columns as wide as their widest cell, two blanks apart; the last one is not padded.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// Proto3 JSON on one line, field names as in the proto's JSON mapping, enums by name.
std::string ToJson(const google::protobuf::Message& message);

// ANSI bold, red, green, dim; the text alone when `color` is false.
enum class Emphasis { kBold, kRed, kGreen, kDim };
std::string Emphasize(absl::string_view text, Emphasis emphasis, bool color);

}  // namespace muster::cli
