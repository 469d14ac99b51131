#include "worker/daemon/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/fake_clock.h"

namespace muster::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

internal::TrainerReport Step(int64_t generation, int rank, int64_t steps) {
  internal::TrainerReport report;
  report.set_job("jobs/a");
  report.set_generation(generation);
  report.set_rank(rank);
  internal::StepReport& step = *report.mutable_step();
  step.set_steps_total(steps);
  step.set_images_total(steps * 4);
  step.add_step_durations_seconds(0.3);
  internal::PhaseDuration& phase = *step.add_phases();
  phase.set_phase("data");
  phase.set_seconds(0.02);
  step.mutable_progress()->set_epoch(2);
  if (rank == 0) {
    (*step.mutable_progress()->mutable_losses())["loss"] = 1.5;
    (*step.mutable_progress()->mutable_losses())["loss_cls"] = 0.5;
    step.mutable_progress()->set_learning_rate(0.02);
    step.mutable_progress()->set_grad_norm(7);
  }
  return report;
}

class WorkerMetricsTest : public ::testing::Test {
 protected:
  std::string Page() const { return metrics_.registry().Serialize(); }

  testing::FakeClock clock_;
  WorkerMetrics metrics_{clock_, clock_};
};

TEST_F(WorkerMetricsTest, ServesEveryFamily) {
  metrics_.SetSlots(1, 4);
  metrics_.SetConnected(true);
  metrics_.Update(Step(1, 0, 10));
  internal::TrainerReport evaluation = Step(1, 0, 10);
  evaluation.mutable_evaluation()->set_ap(0.25);
  evaluation.mutable_evaluation()->set_ap50(0.5);
  evaluation.mutable_evaluation()->set_ap75(-1);
  v1::ClassAp& platelets = *evaluation.mutable_evaluation()->add_classes();
  platelets.set_category("Platelets");
  platelets.set_ap(0.125);
  metrics_.Update(evaluation);
  internal::TrainerReport checkpoint = Step(1, 0, 10);
  checkpoint.mutable_checkpoint()->set_step(10);
  metrics_.Update(checkpoint);

  const std::string page = Page();
  for (const char* line : {
           "muster_train_loss{component=\"loss\",muster_job=\"jobs/a\"} 1.5",
           "muster_train_loss{component=\"loss_cls\",muster_job=\"jobs/a\"} 0.5",
           "muster_train_images_total{muster_job=\"jobs/a\",rank=\"0\"} 40",
           "muster_train_step_total{muster_job=\"jobs/a\",rank=\"0\"} 10",
           "muster_train_step_duration_seconds_count{muster_job=\"jobs/a\",rank=\"0\"} 1",
           "muster_train_phase_duration_seconds_count{muster_job=\"jobs/"
           "a\",phase=\"data\",rank=\"0\"} 1",
           "muster_eval_map_ratio{iou=\"0.50:0.95\",muster_job=\"jobs/a\"} 0.25",
           "muster_eval_map_ratio{iou=\"0.50\",muster_job=\"jobs/a\"} 0.5",
           "muster_eval_class_ap_ratio{class=\"Platelets\",muster_job=\"jobs/a\"} 0.125",
           "muster_train_learning_rate{muster_job=\"jobs/a\"} 0.02",
           "muster_train_grad_norm{muster_job=\"jobs/a\"} 7",
           "muster_train_epoch{muster_job=\"jobs/a\"} 2",
           "muster_train_last_step_timestamp_seconds{muster_job=\"jobs/a\",rank=\"0\"} 1700000000",
           "muster_checkpoint_last_success_timestamp_seconds{muster_job=\"jobs/a\"} 1700000000",
           "muster_worker_slots{state=\"used\"} 1",
           "muster_worker_slots{state=\"free\"} 3",
           "muster_worker_connected 1",
           "muster_build_info{program=\"muster-worker\"",
       }) {
    EXPECT_THAT(page, HasSubstr(line));
  }
  // Nothing to score is no ratio.
  EXPECT_THAT(page, Not(HasSubstr("iou=\"0.75\"")));
}

TEST_F(WorkerMetricsTest, CountersGrowOverGenerationsAndOvertakenReports) {
  metrics_.Update(Step(1, 1, 10));
  metrics_.Update(Step(1, 1, 8));
  metrics_.Update(Step(2, 1, 5));
  EXPECT_THAT(Page(), HasSubstr("muster_train_step_total{muster_job=\"jobs/a\",rank=\"1\"} 15"));
  EXPECT_THAT(Page(), Not(HasSubstr("muster_train_loss{")));
}

TEST_F(WorkerMetricsTest, SeriesOfAnEndedJobGoAfterFiveMinutes) {
  metrics_.Update(Step(1, 0, 10));
  metrics_.JobEnded("jobs/a");
  clock_.Advance(absl::Minutes(4));
  EXPECT_THAT(Page(), HasSubstr("muster_train_loss{"));
  clock_.Advance(absl::Minutes(2));
  EXPECT_THAT(Page(), Not(HasSubstr("jobs/a")));
}

TEST_F(WorkerMetricsTest, EventsCountOnceAndTheirNoticeRunsDown) {
  const auto event = [&](const std::string& id, const std::string& type, int64_t seconds) {
    v1::MaintenanceEvent made;
    made.set_id(id);
    made.set_type(type);
    if (seconds != 0) made.mutable_not_before()->set_seconds(1'700'000'000 + seconds);
    return made;
  };
  const std::string notice = "muster_worker_eviction_notice_seconds{event_type=";
  metrics_.ShowMaintenance({event("1", "Preempt", 30), event("2", "Preempt", 90),
                            event("3", "Reboot", 0), event("4", "Hibernate", 5)});
  EXPECT_THAT(Page(), HasSubstr("muster_worker_scheduled_events_total{event_type=\"Preempt\"} 2"));
  EXPECT_THAT(Page(), HasSubstr("muster_worker_scheduled_events_total{event_type=\"other\"} 1"));
  EXPECT_THAT(Page(), HasSubstr(notice + "\"Preempt\"} 30"));
  EXPECT_THAT(Page(), HasSubstr(notice + "\"Reboot\"} 0"));
  clock_.Advance(absl::Seconds(10));
  metrics_.ShowMaintenance({event("1", "Preempt", 30)});
  EXPECT_THAT(Page(), HasSubstr("muster_worker_scheduled_events_total{event_type=\"Preempt\"} 2"));
  EXPECT_THAT(Page(), HasSubstr(notice + "\"Preempt\"} 20"));
  EXPECT_THAT(Page(), Not(HasSubstr(notice + "\"Reboot\"")));
  metrics_.ShowMaintenance({});
  EXPECT_THAT(Page(), Not(HasSubstr(notice)));
}

TEST_F(WorkerMetricsTest, SeriesStayWhenTheJobGoesOn) {
  metrics_.Update(Step(1, 0, 10));
  metrics_.JobEnded("jobs/a");
  clock_.Advance(absl::Minutes(1));
  metrics_.Update(Step(2, 0, 2));
  clock_.Advance(absl::Minutes(10));
  EXPECT_THAT(Page(), HasSubstr("muster_train_step_total{muster_job=\"jobs/a\",rank=\"0\"} 12"));
}

}  // namespace
}  // namespace muster::worker
