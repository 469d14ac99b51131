#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace muster::train {

// A line on standard error that shows how far long work is, when that is a terminal; nothing
// otherwise. The cursor rests at its start, so that a log line, from any thread, writes over it.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  // Wipes the line.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // At most five times a second, and at the end.
  void Update(int64_t done, int64_t total);
  // The same with own words after the counts ("1.20 s a step, 0:12:00 left").
  void Update(int64_t done, int64_t total, const std::string& note);
  // Other work, from its own start.
  void Start(std::string what);
  // Wipes the line, before lines of several parts are written.
  void Clear() const;

 private:
  bool Due(int64_t done, int64_t total);
  void Draw(int64_t done, int64_t total, const std::string& note) const;

  std::string what_;
  const bool terminal_;
  absl::Duration start_;
  absl::Duration next_;
};

}  // namespace muster::train
