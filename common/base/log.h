#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace muster::base {

// kInfo: something changed that an operator may want to know of. kWarning: it works, but not as
// asked for. kError: a request or job failed. Nothing is logged per step or per heartbeat.
enum class LogSeverity { kInfo, kWarning, kError };

struct LogField {
  template <typename T>
  LogField(absl::string_view field_name, const T& field_value)
      : name(field_name), value(absl::StrCat(field_value)) {}
  absl::string_view name;
  std::string value;
};

// One line to standard error: "I 2026-01-31T12:00:00.123Z worker: rank started job=jobs/a rank=0".
// `component` says which part speaks. Values with blanks are quoted. Thread-safe; never a secret.
void Log(LogSeverity severity, absl::string_view component, absl::string_view message,
         std::initializer_list<LogField> fields = {});

}  // namespace muster::base
