#include "worker/daemon/worker_metrics.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace muster::worker {
namespace {

constexpr absl::Duration kKeptAfterEnd = absl::Minutes(5);

}  // namespace

class WorkerMetrics::State {
 public:
  State()
      : registry("muster-worker"),
        loss_(registry.AddGauge("muster_train_loss",
                                "Loss by component, averaged over all ranks, at the last step.")),
        learning_rate_(
            registry.AddGauge("muster_train_learning_rate", "Learning rate of the last step.")),
        grad_norm_(
            registry.AddGauge("muster_train_grad_norm",
                              "L2 norm of all gradients before clipping, at the last step.")),
        epoch_(registry.AddGauge("muster_train_epoch", "Passes over the data completed.")),
        map_(registry.AddGauge("muster_eval_map_ratio",
                               "Mean average precision of the last evaluation, by IoU threshold.")),
        class_ap_(registry.AddGauge(
            "muster_eval_class_ap_ratio",
            "Average precision (IoU 0.50:0.95) of the last evaluation, by class.")),
        last_step_(registry.AddGauge("muster_train_last_step_timestamp_seconds",
                                     "When the rank last finished a step, Unix time.")),
        last_checkpoint_(
            registry.AddGauge("muster_checkpoint_last_success_timestamp_seconds",
                              "When the job's last checkpoint was complete, Unix time.")),
        images_(registry.AddCounter("muster_train_images_total", "Images trained on.")),
        steps_(registry.AddCounter("muster_train_step_total", "Training steps done.")),
        step_duration_(registry.AddHistogram("muster_train_step_duration_seconds",
                                             "Wall time of a training step.")),
        phase_duration_(registry.AddHistogram("muster_train_phase_duration_seconds",
                                              "Wall time of a phase of a training step.")),
        compute_(registry.AddCounter("muster_train_compute_seconds_total",
                                     "Time in training steps without waits for other ranks.")),
        wait_(registry.AddCounter("muster_train_wait_seconds_total",
                                  "Time in training steps that was waited for other ranks, in "
                                  "collectives.")),
        slots_(registry.AddGauge("muster_worker_slots", "Slots of this worker, by state.")),
        connected_(registry
                       .AddGauge("muster_worker_connected",
                                 "1 while the worker has a session with the coordinator.")
                       .Add({})),
        scheduled_events_(
            registry.AddCounter("muster_worker_scheduled_events_total",
                                "Events that the cloud has announced for the machine, by type.")),
        eviction_notice_(registry.AddGauge("muster_worker_eviction_notice_seconds",
                                           "Time until the cloud may begin with what it has "
                                           "announced, by type; 0 from then on.")) {}

  void Update(const internal::TrainerReport& report, absl::Time now) {
    absl::MutexLock lock(&mutex_);
    Job& job = jobs_[report.job()];
    ++job.reports;
    const std::string& name = report.job();
    if (report.has_step()) UpdateStep(report, job, now);
    if (report.has_checkpoint()) {
      Set(job, last_checkpoint_, {{"muster_job", name}}, ToUnixSeconds(now));
    }
    if (report.has_evaluation()) {
      const v1::EvalResult& result = report.evaluation();
      SetRatio(job, map_, {{"muster_job", name}, {"iou", "0.50:0.95"}}, result.ap());
      SetRatio(job, map_, {{"muster_job", name}, {"iou", "0.50"}}, result.ap50());
      SetRatio(job, map_, {{"muster_job", name}, {"iou", "0.75"}}, result.ap75());
      for (const v1::ClassAp& one : result.classes()) {
        SetRatio(job, class_ap_, {{"muster_job", name}, {"class", one.category()}}, one.ap());
      }
    }
  }

  // How many reports of the job there were: tells whether one came since.
  int64_t Reports(const std::string& job) {
    absl::MutexLock lock(&mutex_);
    const auto it = jobs_.find(job);
    return it != jobs_.end() ? it->second.reports : 0;
  }

  void RemoveUnlessReported(const std::string& name, int64_t reports) {
    absl::MutexLock lock(&mutex_);
    const auto it = jobs_.find(name);
    if (it == jobs_.end() || it->second.reports != reports) return;
    for (const auto& [gauge, family] : it->second.gauges) family->Remove(gauge);
    for (auto& [rank, series] : it->second.ranks) {
      images_.Remove(series.images);
      steps_.Remove(series.steps);
      step_duration_.Remove(series.step_duration);
      compute_.Remove(series.compute);
      wait_.Remove(series.wait);
      for (const auto& [phase, histogram] : series.phases) phase_duration_.Remove(histogram);
    }
    jobs_.erase(it);
  }

  void SetSlots(int used, int total) {
    slots_.Add({{"state", "used"}}).Set(used);
    slots_.Add({{"state", "free"}}).Set(total - used);
  }

  void SetConnected(bool connected) { connected_.Set(connected ? 1 : 0); }

  void ShowMaintenance(const std::vector<v1::MaintenanceEvent>& events, absl::Time now) {
    absl::MutexLock lock(&mutex_);
    std::set<std::string> ids;
    std::map<std::string, double> notices;
    for (const v1::MaintenanceEvent& event : events) {
      const std::string type = TypeLabel(event.type());
      if (ids.insert(event.id()).second && event_ids_.count(event.id()) == 0) {
        scheduled_events_.Add({{"event_type", type}}).Increment();
      }
      const double start = static_cast<double>(event.not_before().seconds());
      const double notice = std::max(0.0, start - ToUnixSeconds(now));
      const auto [it, first] = notices.emplace(type, notice);
      if (!first) it->second = std::min(it->second, notice);
    }
    event_ids_ = std::move(ids);
    for (auto it = notices_.begin(); it != notices_.end();) {
      const bool over = notices.count(it->first) == 0;
      if (over) eviction_notice_.Remove(it->second);
      it = over ? notices_.erase(it) : std::next(it);
    }
    for (const auto& [type, notice] : notices) {
      metrics::Gauge*& gauge = notices_[type];
      if (gauge == nullptr) gauge = &eviction_notice_.Add({{"event_type", type}});
      gauge->Set(notice);
    }
  }

  metrics::Registry registry;

 private:
  using GaugesOf = prometheus::Family<metrics::Gauge>;
  using Labels = metrics::Labels;

  struct RankSeries {
    metrics::Counter* images = nullptr;
    metrics::Counter* steps = nullptr;
    metrics::Histogram* step_duration = nullptr;
    metrics::Counter* compute = nullptr;
    metrics::Counter* wait = nullptr;
    std::map<std::string, metrics::Histogram*> phases;
    // Totals of the process that reported last.
    int64_t generation = 0;
    int64_t images_total = 0;
    int64_t steps_total = 0;
  };
  struct Job {
    int64_t reports = 0;
    std::map<int, RankSeries> ranks;
    std::map<metrics::Gauge*, GaugesOf*> gauges;
  };

  // Bounded, whatever the cloud may come up with.
  static std::string TypeLabel(const std::string& type) {
    for (const char* known : {"Freeze", "Reboot", "Redeploy", "Preempt", "Terminate"}) {
      if (type == known) return type;
    }
    return "other";
  }

  static double ToUnixSeconds(absl::Time time) {
    return absl::ToDoubleSeconds(time - absl::UnixEpoch());
  }

  void Set(Job& job, GaugesOf& family, const Labels& labels, double value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // Add gives the series that is there already.
    metrics::Gauge& gauge = family.Add(labels);
    gauge.Set(value);
    job.gauges[&gauge] = &family;
  }

  // -1 stands for nothing to score.
  void SetRatio(Job& job, GaugesOf& family, const Labels& labels, double value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (value >= 0) Set(job, family, labels, value);
  }

  void UpdateStep(const internal::TrainerReport& report, Job& job, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const internal::StepReport& step = report.step();
    const Labels labels = {{"muster_job", report.job()}, {"rank", absl::StrCat(report.rank())}};
    RankSeries& series = job.ranks[report.rank()];
    if (series.images == nullptr) {
      series.images = &images_.Add(labels);
      series.steps = &steps_.Add(labels);
      series.step_duration = &step_duration_.Add(labels, metrics::StepDurationBuckets());
      series.compute = &compute_.Add(labels);
      series.wait = &wait_.Add(labels);
    }
    if (series.generation != report.generation()) {
      series.generation = report.generation();
      series.images_total = 0;
      series.steps_total = 0;
    }
    // Reports of one rank may overtake each other; a counter never falls.
    if (step.images_total() > series.images_total) {
      series.images->Increment(static_cast<double>(step.images_total() - series.images_total));
      series.images_total = step.images_total();
    }
    if (step.steps_total() > series.steps_total) {
      series.steps->Increment(static_cast<double>(step.steps_total() - series.steps_total));
      series.steps_total = step.steps_total();
      Set(job, last_step_, labels, ToUnixSeconds(now));
    }
    double own = -step.wait_seconds();
    for (double seconds : step.step_durations_seconds()) {
      series.step_duration->Observe(seconds);
      own += seconds;
    }
    series.wait->Increment(std::max(0.0, step.wait_seconds()));
    series.compute->Increment(std::max(0.0, own));
    for (const internal::PhaseDuration& phase : step.phases()) {
      metrics::Histogram*& histogram = series.phases[phase.phase()];
      if (histogram == nullptr) {
        Labels phase_labels = labels;
        phase_labels["phase"] = phase.phase();
        histogram = &phase_duration_.Add(phase_labels, metrics::StepDurationBuckets());
      }
      histogram->Observe(phase.seconds());
    }
    if (report.rank() != 0) return;
    const v1::TrainProgress& progress = step.progress();
    const Labels job_label = {{"muster_job", report.job()}};
    for (const auto& [component, value] : progress.losses()) {
      Set(job, loss_, {{"muster_job", report.job()}, {"component", component}}, value);
    }
    Set(job, epoch_, job_label, progress.epoch());
    if (progress.losses().empty()) return;
    Set(job, learning_rate_, job_label, progress.learning_rate());
    Set(job, grad_norm_, job_label, progress.grad_norm());
  }

  GaugesOf& loss_;
  GaugesOf& learning_rate_;
  GaugesOf& grad_norm_;
  GaugesOf& epoch_;
  GaugesOf& map_;
  GaugesOf& class_ap_;
  GaugesOf& last_step_;
  GaugesOf& last_checkpoint_;
  prometheus::Family<metrics::Counter>& images_;
  prometheus::Family<metrics::Counter>& steps_;
  prometheus::Family<metrics::Histogram>& step_duration_;
  prometheus::Family<metrics::Histogram>& phase_duration_;
  prometheus::Family<metrics::Counter>& compute_;
  prometheus::Family<metrics::Counter>& wait_;
  GaugesOf& slots_;
  metrics::Gauge& connected_;
  prometheus::Family<metrics::Counter>& scheduled_events_;
  GaugesOf& eviction_notice_;

  absl::Mutex mutex_;
  std::map<std::string, Job> jobs_ ABSL_GUARDED_BY(mutex_);
  // Of the events that are announced now.
  std::set<std::string> event_ids_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, metrics::Gauge*> notices_ ABSL_GUARDED_BY(mutex_);
};

WorkerMetrics::WorkerMetrics(const base::Clock& clock, base::TimerQueue& timers)
    : clock_(clock), timers_(timers), state_(std::make_shared<State>()) {}

WorkerMetrics::~WorkerMetrics() = default;

const metrics::Registry& WorkerMetrics::registry() const { return state_->registry; }

void WorkerMetrics::Update(const internal::TrainerReport& report) {
  state_->Update(report, clock_.Now());
}

void WorkerMetrics::JobEnded(const std::string& job) {
  timers_.RunAt(clock_.Monotonic() + kKeptAfterEnd,
                [state = state_, job, reports = state_->Reports(job)] {
                  state->RemoveUnlessReported(job, reports);
                });
}

void WorkerMetrics::SetSlots(int used, int total) { state_->SetSlots(used, total); }

void WorkerMetrics::SetConnected(bool connected) { state_->SetConnected(connected); }

void WorkerMetrics::ShowMaintenance(const std::vector<v1::MaintenanceEvent>& events) {
  state_->ShowMaintenance(events, clock_.Now());
}

}  // namespace muster::worker
