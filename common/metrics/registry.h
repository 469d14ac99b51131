#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace muster::metrics {

using Counter = prometheus::Counter;
using Gauge = prometheus::Gauge;
using Histogram = prometheus::Histogram;
using Labels = prometheus::Labels;

// The metrics of one process. Thread-safe. Families are made once, at the start, by the class that
// sets them; Family::Add(labels) gives the series (the same labels give the same series) and
// Family::Remove(&series) ends it. Histograms take their buckets in Add(labels, buckets).
//
// Names: prefix muster_, base units, _total for counters, _ratio for 0..1; labels are bounded. A
// name or label that Prometheus would refuse is a defect of the program and aborts it.
class Registry {
 public:
  // Also makes muster_build_info{version, program} = 1.
  explicit Registry(absl::string_view program);
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  prometheus::Family<Counter>& AddCounter(const std::string& name, const std::string& help);
  prometheus::Family<Gauge>& AddGauge(const std::string& name, const std::string& help);
  prometheus::Family<Histogram>& AddHistogram(const std::string& name, const std::string& help);

  // All series in the text format 0.0.4.
  std::string Serialize() const;

 private:
  prometheus::Registry registry_;
};

// Content type of Serialize().
inline constexpr absl::string_view kTextFormatContentType =
    "text/plain; version=0.0.4; charset=utf-8";

// Buckets for durations of training steps, 10 ms to 60 s, each about 1.6 times the one before.
Histogram::BucketBoundaries StepDurationBuckets();

}  // namespace muster::metrics
