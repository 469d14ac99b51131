#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace muster::train {

// A line on standard error that shows how far long work is, when that is a terminal; nothing
// otherwise.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  // Wipes the line.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done, int64_t total);

 private:
  const std::string what_;
  const bool terminal_;
  const absl::Duration start_;
  absl::Duration next_;
};

}  // namespace muster::train
