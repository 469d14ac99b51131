#include "common/metrics/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muster::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RegistryTest, SerializesEveryKind) {
  Registry registry("muster-worker");
  registry.AddCounter("muster_train_images_total", "Images.")
      .Add({{"muster_job", "jobs/a"}})
      .Increment(3);
  auto& losses = registry.AddGauge("muster_train_loss", "Loss by component.");
  Gauge& loss = losses.Add({{"component", "loss_cls"}});
  loss.Set(0.5);
  registry.AddHistogram("muster_train_step_duration_seconds", "Steps.")
      .Add({}, StepDurationBuckets())
      .Observe(0.3);
  const std::string text = registry.Serialize();
  EXPECT_THAT(text, HasSubstr("# TYPE muster_train_images_total counter"));
  EXPECT_THAT(text, HasSubstr("muster_train_images_total{muster_job=\"jobs/a\"} 3"));
  EXPECT_THAT(text, HasSubstr("muster_train_loss{component=\"loss_cls\"} 0.5"));
  EXPECT_THAT(text, HasSubstr("muster_train_step_duration_seconds_bucket{le=\"0.4\"} 1"));
  EXPECT_THAT(text, HasSubstr("muster_train_step_duration_seconds_bucket{le=\"0.25\"} 0"));
  EXPECT_THAT(text, HasSubstr("muster_build_info{"));
  losses.Remove(&loss);
  EXPECT_THAT(registry.Serialize(), Not(HasSubstr("component=\"loss_cls\"")));
}

TEST(RegistryTest, BucketsGrow) {
  const auto buckets = StepDurationBuckets();
  for (size_t i = 1; i < buckets.size(); ++i) EXPECT_LT(buckets[i - 1], buckets[i]);
}

}  // namespace
}  // namespace muster::metrics
