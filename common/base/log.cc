#include "common/base/log.h"

#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace muster::base {

void Log(LogSeverity severity, absl::string_view component, absl::string_view message,
         std::initializer_list<LogField> fields) {
  const char letter = severity == LogSeverity::kInfo      ? 'I'
                      : severity == LogSeverity::kWarning ? 'W'
                                                          : 'E';
  std::string line =
      absl::StrCat(absl::string_view(&letter, 1), " ",
                   absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ",
                   component, ": ", message);
  for (const LogField& field : fields) {
    const bool plain =
        !field.value.empty() && field.value.find_first_of(" \"\n\t=") == std::string::npos;
    absl::StrAppend(&line, " ", field.name, "=");
    absl::StrAppend(&line,
                    plain ? field.value : absl::StrCat("\"", absl::CEscape(field.value), "\""));
  }
  line += '\n';
  // One write, so that lines of several processes on one pipe stay whole. Nothing can be done when
  // it fails.
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace muster::base
