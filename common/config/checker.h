#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/config/validate.h"

namespace muster::config {

// Gathers what is wrong with a config.
class Checker {
 public:
  void Add(absl::string_view field, absl::string_view description) {
    violations_.push_back({std::string(field), std::string(description)});
  }

  // Each wants the condition and says what to write.
  template <typename T>
  void InRange(absl::string_view field, T value, T low, T high) {
    if (!(value >= low && value <= high)) {
      Add(field, absl::StrCat("is ", value, "; must be ", low, " to ", high));
    }
  }
  void AtLeast(absl::string_view field, double value, double low) {
    if (!(value >= low) || !std::isfinite(value)) {
      Add(field, absl::StrCat("is ", value, "; must be at least ", low));
    }
  }
  void Positive(absl::string_view field, double value) {
    if (!(value > 0) || !std::isfinite(value)) {
      Add(field, absl::StrCat("is ", value, "; must be above 0"));
    }
  }
  template <typename IsValid>
  void KnownEnum(absl::string_view field, int value, IsValid is_valid) {
    if (!is_valid(value)) Add(field, absl::StrCat("unknown value ", value));
  }

  std::vector<Violation> Take() { return std::move(violations_); }

 private:
  std::vector<Violation> violations_;
};

}  // namespace muster::config
