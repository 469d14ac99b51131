#include "worker/train/evaluator.h"

#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "google/protobuf/util/time_util.h"

#include "worker/data/data_loader.h"
#include "worker/data/sampler.h"
#include "worker/data/transforms.h"
#include "worker/eval/coco_files.h"
#include "worker/train/batches.h"
#include "worker/train/failure.h"

namespace muster::train {
namespace {

static_assert(std::is_trivially_copyable_v<eval::Detection>);

std::string Pack(const std::vector<eval::Detection>& detections) {
  return std::string(reinterpret_cast<const char*>(detections.data()),
                     detections.size() * sizeof(eval::Detection));
}

void Unpack(const std::string& bytes, std::vector<eval::Detection>* detections) {
  const size_t before = detections->size();
  detections->resize(before + bytes.size() / sizeof(eval::Detection));
  if (!bytes.empty()) std::memcpy(&(*detections)[before], bytes.data(), bytes.size());
}

void Append(const model::Detections& found, int64_t image_id,
            const std::vector<data::Category>& categories,
            std::vector<eval::Detection>* detections) {
  const at::Tensor boxes = found.boxes.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor scores = found.scores.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor labels = found.labels.to(at::kCPU).contiguous();
  const double* box = boxes.const_data_ptr<double>();
  for (int64_t i = 0; i < scores.numel(); ++i, box += 4) {
    eval::Detection& detection = detections->emplace_back();
    detection.image_id = image_id;
    detection.category_id = categories[static_cast<size_t>(labels.const_data_ptr<int64_t>()[i])].id;
    detection.bbox = {box[0], box[1], box[2] - box[0], box[3] - box[1]};
    detection.score = scores.const_data_ptr<double>()[i];
  }
}

}  // namespace

Evaluator::Evaluator(const config::v1::TrainJob& job, const DataSplit& split, at::Device device)
    : job_(job), split_(split), device_(device) {
  Require(data::EvaluationPipeline(job_).status(), base::kExitBadConfig);
}

std::vector<eval::Detection> Evaluator::Detect(model::FasterRCNN& model, int rank, int world_size,
                                               const OnProgress& on_progress) const {
  return Detect(model, split_.dataset.AllImages(), rank, world_size, on_progress);
}

std::vector<eval::Detection> Evaluator::Detect(model::FasterRCNN& model,
                                               const std::vector<int>& images, int rank,
                                               int world_size,
                                               const OnProgress& on_progress) const {
  data::DataLoader::Options options;
  options.pipeline = Require(data::EvaluationPipeline(job_), base::kExitBadConfig);
  options.seed = job_.seed();
  options.threads = static_cast<int>(job_.data().loader_threads());
  options.prefetch_batches = static_cast<int>(job_.data().prefetch_batches());
  data::DataLoader loader(options, split_.dataset, *split_.images);
  data::Schedule schedule = data::EvaluationBatches(
      split_.dataset, images, static_cast<int>(job_.data().test_images_per_rank()), rank,
      world_size);
  int64_t total = 0;
  for (const auto& batch : schedule) total += static_cast<int64_t>(batch.size());
  loader.Start(0, std::move(schedule));

  model->eval();
  std::vector<eval::Detection> detections;
  int64_t done = 0;
  while (true) {
    const std::shared_ptr<data::Batch> batch = Require(loader.Next(), base::kExitDataError);
    if (batch == nullptr) return detections;
    const std::vector<model::Detections> found = model->Predict(ToPredictBatch(batch, device_));
    for (size_t i = 0; i < found.size(); ++i) {
      Append(found[i], batch->samples[i].image_id, split_.dataset.categories(), &detections);
    }
    done += batch->images();
    if (on_progress) on_progress(done, total);
  }
}

std::optional<EvaluationOutcome> Evaluator::Evaluate(model::FasterRCNN& model,
                                                     dist::Communicator& control,
                                                     const OnProgress& on_progress) const {
  const std::vector<eval::Detection> own =
      Detect(model, control.rank(), control.size(), on_progress);
  const std::vector<std::string> gathered = control.AllGatherBytes(Pack(own));
  if (control.rank() != 0) return std::nullopt;
  EvaluationOutcome outcome;
  for (const std::string& bytes : gathered) Unpack(bytes, &outcome.detections);
  eval::SortByImage(&outcome.detections);
  const eval::GroundTruth ground_truth =
      Require(eval::ReadGroundTruth(split_.dataset.path()), base::kExitDataError);
  outcome.result = eval::EvaluateCoco(ground_truth, outcome.detections);
  return outcome;
}

v1::EvalResult ToEvalResult(const eval::CocoResult& result, int epoch, int64_t step) {
  v1::EvalResult report;
  report.set_epoch(epoch);
  report.set_step(step);
  report.set_ap(result.figures.ap);
  report.set_ap50(result.figures.ap50);
  report.set_ap75(result.figures.ap75);
  report.set_ap_small(result.figures.ap_small);
  report.set_ap_medium(result.figures.ap_medium);
  report.set_ap_large(result.figures.ap_large);
  report.set_ar1(result.figures.ar1);
  report.set_ar10(result.figures.ar10);
  report.set_ar100(result.figures.ar100);
  report.set_ar_small(result.figures.ar_small);
  report.set_ar_medium(result.figures.ar_medium);
  report.set_ar_large(result.figures.ar_large);
  for (const eval::CategoryFigures& category : result.categories) {
    v1::ClassAp* item = report.add_classes();
    item->set_category(category.name);
    item->set_ap(category.ap);
  }
  *report.mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  return report;
}

}  // namespace muster::train
