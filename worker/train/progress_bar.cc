#include "worker/train/progress_bar.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"

#include "common/base/clock.h"

namespace muster::train {

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1), start_(base::MonotonicNow()) {}

ProgressBar::~ProgressBar() {
  if (terminal_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::Update(int64_t done, int64_t total) {
  const absl::Duration now = base::MonotonicNow();
  if (!terminal_ || total <= 0 || (now < next_ && done < total)) return;
  next_ = now + absl::Milliseconds(200);
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(kWidth * done / total);
  const double seconds = absl::ToDoubleSeconds(now - start_);
  const std::string line = absl::StrFormat(
      "\r\x1b[K%s [%s%s] %d/%d, %.1f/s, %.0f s left", what_,
      std::string(static_cast<size_t>(filled), '#'),
      std::string(static_cast<size_t>(kWidth - filled), '.'), done, total,
      seconds > 0 ? static_cast<double>(done) / seconds : 0.0,
      done > 0 ? seconds / static_cast<double>(done) * static_cast<double>(total - done) : 0.0);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace muster::train
