#include "common/metrics/registry.h"

#include "prometheus/text_serializer.h"

namespace muster::metrics {

Registry::Registry(absl::string_view program) {
  AddGauge("muster_build_info", "Version of the program; always 1.")
      .Add({{"version", MUSTER_VERSION}, {"program", std::string(program)}})
      .Set(1);
}

prometheus::Family<Counter>& Registry::AddCounter(const std::string& name,
                                                  const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
}

prometheus::Family<Gauge>& Registry::AddGauge(const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
}

prometheus::Family<Histogram>& Registry::AddHistogram(const std::string& name,
                                                      const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
}

std::string Registry::Serialize() const {
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

Histogram::BucketBoundaries StepDurationBuckets() {
  return {0.01, 0.016, 0.025, 0.04, 0.06, 0.1, 0.16, 0.25, 0.4, 0.6,
          1,    1.6,   2.5,   4,    6,    10,  16,   25,   40,  60};
}

}  // namespace muster::metrics
