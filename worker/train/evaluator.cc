#include "worker/train/evaluator.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "google/protobuf/util/time_util.h"

#include "worker/data/data_loader.h"
#include "worker/data/sampler.h"
#include "worker/eval/coco_files.h"
#include "worker/model/autocast.h"
#include "worker/train/batches.h"
#include "worker/train/failure.h"
#include "worker/train/test_time_augmentation.h"

namespace muster::train {
namespace {

static_assert(std::is_trivially_copyable_v<eval::Detection>);

// Before the detections of a rank that did its whole share.
constexpr char kComplete = 'd';

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
    : job_(job),
      split_(split),
      device_(device),
      views_(Require(EvaluationViews(job_), base::kExitBadConfig)) {}

std::optional<std::vector<eval::Detection>> Evaluator::Detect(model::FasterRCNN& model,
                                                              const std::vector<int>& images,
                                                              const OnProgress& on_progress) const {
  return DetectShare(model, images, /*rank=*/0, /*world_size=*/1, on_progress);
}

std::optional<std::vector<eval::Detection>> Evaluator::DetectShare(
    model::FasterRCNN& model, const std::vector<int>& images, int rank, int world_size,
    const OnProgress& on_progress) const {
  const data::Schedule share = data::EvaluationBatches(
      split_.dataset, images, static_cast<int>(job_.data().test_images_per_rank()), rank,
      world_size);

  model->eval();
  const model::AutocastGuard autocast(
      device_.type(), job_.schedule().precision() == config::v1::PRECISION_BFLOAT16);
  const int64_t total = static_cast<int64_t>(images.size() * views_.size());
  int64_t done = 0;
  if (!on_progress(done, total)) return std::nullopt;
  // By index in the data set, in order of the views.
  std::map<int, std::vector<model::Detections>> found;
  std::map<int, int64_t> ids;
  for (const data::PipelineOptions& view : views_) {
    data::DataLoader::Options options;
    options.pipeline = view;
    options.seed = job_.seed();
    options.threads = static_cast<int>(job_.data().loader_threads());
    options.prefetch_batches = static_cast<int>(job_.data().prefetch_batches());
    data::DataLoader loader(options, split_.dataset, *split_.images);
    loader.Start(0, share);
    while (const std::shared_ptr<data::Batch> batch =
               Require(loader.Next(), base::kExitDataError)) {
      std::vector<model::Detections> detections = model->Predict(ToPredictBatch(batch, device_));
      for (size_t i = 0; i < detections.size(); ++i) {
        const data::SampleMeta& sample = batch->samples[i];
        if (sample.flip) detections[i] = Unmirror(std::move(detections[i]), sample.ori_w);
        found[sample.dataset_index].push_back(std::move(detections[i]));
        ids[sample.dataset_index] = sample.image_id;
      }
      done = std::min(total, done + batch->images() * world_size);
      if (!on_progress(done, total)) return std::nullopt;
    }
  }
  // With fewer batches than another rank it has not come so far.
  if (done < total && !on_progress(total, total)) return std::nullopt;
  std::vector<eval::Detection> detections;
  for (auto& [index, views] : found) {
    Append(MergeViews(std::move(views), job_.model().roi_head()), ids.at(index),
           split_.dataset.categories(), &detections);
  }
  return detections;
}

EvaluationOutcome Evaluator::Evaluate(model::FasterRCNN& model, dist::Communicator& control,
                                      const OnProgress& on_progress) const {
  const std::optional<std::vector<eval::Detection>> own =
      DetectShare(model, split_.dataset.AllImages(), control.rank(), control.size(), on_progress);
  std::vector<std::string> gathered =
      control.AllGatherBytes(own.has_value() ? kComplete + Pack(*own) : std::string());
  EvaluationOutcome outcome;
  outcome.complete = std::none_of(gathered.begin(), gathered.end(),
                                  [](const std::string& bytes) { return bytes.empty(); });
  if (!outcome.complete || control.rank() != 0) return outcome;
  for (const std::string& bytes : gathered) {
    Unpack(bytes.substr(1), &outcome.detections);
  }
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
