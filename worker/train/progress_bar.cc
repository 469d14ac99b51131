#include "worker/train/progress_bar.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

#include "common/base/clock.h"

namespace muster::train {

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1), start_(base::MonotonicNow()) {}

ProgressBar::~ProgressBar() { Clear(); }

void ProgressBar::Start(std::string what) {
  what_ = std::move(what);
  start_ = base::MonotonicNow();
  next_ = absl::ZeroDuration();
}

void ProgressBar::Clear() const {
  if (terminal_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::Update(int64_t done, int64_t total) {
  if (!Due(done, total)) return;
  const double seconds = absl::ToDoubleSeconds(base::MonotonicNow() - start_);
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0.0;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0.0;
  Draw(done, total, absl::StrFormat("%.1f/s, %.0f s left", rate, left));
}

void ProgressBar::Update(int64_t done, int64_t total, const std::string& note) {
  if (Due(done, total)) Draw(done, total, note);
}

bool ProgressBar::Due(int64_t done, int64_t total) {
  const absl::Duration now = base::MonotonicNow();
  if (!terminal_ || total <= 0 || (now < next_ && done < total)) return false;
  next_ = now + absl::Milliseconds(200);
  return true;
}

void ProgressBar::Draw(int64_t done, int64_t total, const std::string& note) const {
  constexpr int64_t kWidth = 30;
  const auto filled = static_cast<size_t>(kWidth * done / total);
  const std::string line =
      absl::StrCat("\r", what_, " [", std::string(filled, '#'), std::string(kWidth - filled, '.'),
                   "] ", done, "/", total, ", ", note, "\x1b[K\r");
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace muster::train
