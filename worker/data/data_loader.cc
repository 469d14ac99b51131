#include "worker/data/data_loader.h"

#include <algorithm>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "opencv2/core.hpp"

#include "common/base/status_macros.h"
#include "worker/data/augment_pixels.h"
#include "worker/data/decode.h"
#include "worker/data/resize.h"

namespace muster::data {
namespace {

constexpr size_t kAlignment = 64;

// What one loader thread keeps from image to image.
struct Workspace {
  ImageDecoder decoder;
  PillowResizer pillow;
  std::vector<uint8_t> file;
  std::vector<uint8_t> decoded;
  std::vector<uint8_t> resized;
  std::vector<float> augmented;
  std::vector<float> resized_augmented;
};

std::array<std::vector<int>, 2> Replacements(const CocoDataset& dataset,
                                             const PipelineOptions& options) {
  std::array<std::vector<int>, 2> groups;
  if (!options.replace_empty && !options.augmentation.resize_crop.has_value()) return groups;
  for (const int index : dataset.TrainingImages(options.min_image_side, options.keep_empty)) {
    const DatasetImage& image = dataset.images()[static_cast<size_t>(index)];
    if (!image.boxes.empty()) groups[static_cast<size_t>(AspectGroup(image.size))].push_back(index);
  }
  return groups;
}

}  // namespace

void Batch::Resize(int images, Size size) {
  images_ = images;
  size_ = size;
  const size_t values = static_cast<size_t>(images) * image_values();
  if (values <= capacity_) return;
  const size_t bytes = (values * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
  if (data_ == nullptr) throw std::bad_alloc();
  capacity_ = values;
}

// Batches that nobody uses. Outlives the loader as long as a batch is out.
class DataLoader::Pool : public std::enable_shared_from_this<Pool> {
 public:
  explicit Pool(size_t kept) : kept_(kept) {}

  std::shared_ptr<Batch> Take() {
    std::unique_ptr<Batch> batch;
    {
      absl::MutexLock lock(&mutex_);
      if (!free_.empty()) {
        batch = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (batch == nullptr) batch = std::make_unique<Batch>();
    return std::shared_ptr<Batch>(batch.release(),
                                  [pool = shared_from_this()](Batch* used) { pool->Return(used); });
  }

 private:
  void Return(Batch* used) {
    std::unique_ptr<Batch> batch(used);
    absl::MutexLock lock(&mutex_);
    if (free_.size() < kept_) free_.push_back(std::move(batch));
  }

  const size_t kept_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Batch>> free_ ABSL_GUARDED_BY(mutex_);
};

// A batch that is being made. Guarded by the loader's mutex but for the batch's memory: each
// sample's part belongs to the thread that claimed it.
struct DataLoader::Pending {
  std::shared_ptr<Batch> batch;
  std::vector<Sample> samples;
  // Of each sample; the dataset index is that of the image which is taken.
  std::vector<ImagePlan> plans;
  std::vector<absl::Status> errors;
  size_t claimed = 0;
  size_t done = 0;
};

DataLoader::DataLoader(const Options& options, const CocoDataset& dataset,
                       const ImageSource& source)
    : options_(options),
      dataset_(dataset),
      source_(source),
      normalizer_(options.pipeline),
      replacements_(Replacements(dataset, options.pipeline)),
      pool_(
          std::make_shared<Pool>(static_cast<size_t>(std::max(options.prefetch_batches, 1)) + 2)) {
  cv::setNumThreads(1);
  for (int i = 0; i < std::max(options_.threads, 1); ++i) {
    threads_.emplace_back([this] { Run(); });
  }
}

DataLoader::~DataLoader() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void DataLoader::Start(uint64_t epoch, Schedule schedule) {
  absl::MutexLock lock(&mutex_);
  epoch_ = epoch;
  schedule_ = std::move(schedule);
  next_batch_ = 0;
  failed_ = false;
  pending_.clear();
}

absl::StatusOr<std::shared_ptr<Batch>> DataLoader::Next() {
  absl::MutexLock lock(&mutex_);
  if (failed_) return absl::FailedPreconditionError("the data loader has failed before");
  if (pending_.empty() && next_batch_ == schedule_.size()) return std::shared_ptr<Batch>();
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !pending_.empty() && pending_.front()->done == pending_.front()->samples.size();
  };
  mutex_.Await(absl::Condition(&ready));
  const std::shared_ptr<Pending> front = std::move(pending_.front());
  pending_.pop_front();
  for (const absl::Status& error : front->errors) {
    if (error.ok()) continue;
    failed_ = true;
    pending_.clear();
    next_batch_ = schedule_.size();
    return error;
  }
  return front->batch;
}

bool DataLoader::HasWork() const {
  for (const std::shared_ptr<Pending>& pending : pending_) {
    if (pending->claimed < pending->samples.size()) return true;
  }
  return next_batch_ < schedule_.size() &&
         pending_.size() < static_cast<size_t>(std::max(options_.prefetch_batches, 1));
}

void DataLoader::Open() {
  auto pending = std::make_shared<Pending>();
  pending->samples = schedule_[next_batch_++];
  pending->errors.resize(pending->samples.size());
  for (size_t i = 0; i < pending->samples.size(); ++i) {
    absl::StatusOr<ImagePlan> plan = Plan(epoch_, &pending->samples[i]);
    pending->plans.push_back(plan.ok() ? *std::move(plan) : ImagePlan());
    pending->errors[i] = plan.status();
  }
  pending->batch = pool_->Take();
  pending->batch->Resize(static_cast<int>(pending->samples.size()),
                         BatchSize(options_.pipeline, pending->plans));
  pending->batch->samples.resize(pending->samples.size());
  pending_.push_back(std::move(pending));
}

absl::StatusOr<ImagePlan> DataLoader::Plan(uint64_t epoch, Sample* sample) const {
  constexpr uint64_t kAttempts = 1000;
  const int first_index = sample->dataset_index;
  DrawKey key = {
      .seed = options_.seed, .epoch = epoch, .sample = static_cast<uint64_t>(sample->sample_id)};
  for (uint64_t attempt = 0; attempt < kAttempts; ++attempt) {
    const DatasetImage& image = dataset_.images()[static_cast<size_t>(sample->dataset_index)];
    std::optional<ImagePlan> plan = PlanImage(options_.pipeline, image, key);
    if (plan.has_value()) return *std::move(plan);
    const std::vector<int>& others = replacements_[static_cast<size_t>(AspectGroup(image.size))];
    if (others.empty()) break;
    sample->dataset_index = others[key.For("replacement").NextBelow(others.size())];
    key.sample += uint64_t{1} << 40;  // more than an epoch has samples: the next image draws anew
  }
  const DatasetImage& image = dataset_.images()[static_cast<size_t>(first_index)];
  return absl::InvalidArgumentError(absl::StrCat(
      dataset_.path().string(), ": image ", image.file_name,
      " has no object to train on, and no other image of its orientation was found that has; set "
      "data.keep_empty, or check data.rand_resize_crop"));
}

namespace {

void FillMeta(const Sample& sample, const DatasetImage& image, ImagePlan* plan_of_image,
              SampleMeta* meta) {
  ImagePlan& plan = *plan_of_image;
  meta->image_id = image.id;
  meta->dataset_index = sample.dataset_index;
  meta->sample_id = sample.sample_id;
  meta->ori_w = plan.original.width;
  meta->ori_h = plan.original.height;
  meta->img_w = plan.resized.width;
  meta->img_h = plan.resized.height;
  meta->pad_w = plan.padded.width;
  meta->pad_h = plan.padded.height;
  meta->scale_w = plan.scale_w;
  meta->scale_h = plan.scale_h;
  meta->flip = plan.flip;
  meta->labels = std::move(plan.objects.labels);
  meta->gt_bboxes = std::move(plan.objects.boxes);
  meta->gt_bboxes_ignore = std::move(plan.objects.crowd_boxes);
}

// The decoded image in workspace->decoded, augmented, resized and normalised at `out`.
absl::Status TransformPixels(const PipelineOptions& options, const Normalizer& normalizer,
                             const ImagePlan& plan, Size batch, Workspace* workspace, float* out) {
  const Augmentation& drawn = plan.augmentation;
  const std::vector<uint8_t>* pixels = &workspace->decoded;
  if (drawn.changes_pixels()) {
    MUSTER_RETURN_IF_ERROR(
        AugmentPixels(workspace->decoded, drawn, options.mean, &workspace->augmented));
    if (!drawn.resized.has_value()) {
      // Stays float32 up to the batch, as in mmdetection.
      const std::vector<float>* values = &workspace->augmented;
      if (plan.resized != drawn.result()) {
        MUSTER_RETURN_IF_ERROR(ResizeLinear(workspace->augmented, drawn.result(), plan.resized,
                                            &workspace->resized_augmented));
        values = &workspace->resized_augmented;
      }
      normalizer.Write(*values, plan.resized, plan.flip, batch, out);
      return absl::OkStatus();
    }
    ToBytes(workspace->augmented, &workspace->decoded);
  }
  if (drawn.resized.has_value()) {
    workspace->pillow.Resize(*pixels, drawn.kept.size, *drawn.resized, drawn.crop,
                             &workspace->resized);
    pixels = &workspace->resized;
  } else if (plan.resized != plan.original) {
    MUSTER_RETURN_IF_ERROR(ResizeLinear(*pixels, plan.original, plan.resized, &workspace->resized));
    pixels = &workspace->resized;
  }
  normalizer.Write(*pixels, plan.resized, plan.flip, batch, out);
  return absl::OkStatus();
}

// Of a picture whose size is not the annotations'.
std::string SizeProblem(absl::Span<const uint8_t> file, Size size, Size annotated) {
  std::string text =
      absl::StrCat("it has ", size.width, "x", size.height, " pixels, the annotations say ",
                   annotated.width, "x", annotated.height);
  const int orientation = JpegOrientation(file);
  if (orientation >= 5 && size == Size{annotated.height, annotated.width}) {
    absl::StrAppend(&text, ", which is the picture before its EXIF orientation ", orientation,
                    " is applied: annotate the turned picture, or remove the orientation");
  }
  return text;
}

// The image's pixels into its place `out` of a batch.
absl::Status FillPixels(const PipelineOptions& options, const ImageSource& source,
                        const Normalizer& normalizer, const DatasetImage& image,
                        const ImagePlan& plan, Size batch, Workspace* workspace, float* out) {
  MUSTER_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> file,
                          source.Read(image.file_name, &workspace->file));
  const auto in_image = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(source.name(), ": image ", image.file_name,
                                                    ": ", status.message()));
  };
  const absl::StatusOr<Size> size = workspace->decoder.Decode(file, &workspace->decoded);
  if (!size.ok()) return in_image(size.status());
  if (*size != plan.original) {
    return in_image(absl::InvalidArgumentError(SizeProblem(file, *size, plan.original)));
  }
  const absl::Status status = TransformPixels(options, normalizer, plan, batch, workspace, out);
  return status.ok() ? status : in_image(status);
}

}  // namespace

void DataLoader::Run() {
  Workspace workspace;
  absl::MutexLock lock(&mutex_);
  const auto wake = [this]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || HasWork(); };
  while (true) {
    mutex_.Await(absl::Condition(&wake));
    if (stopping_) return;
    std::shared_ptr<Pending> pending;
    for (const std::shared_ptr<Pending>& candidate : pending_) {
      if (candidate->claimed < candidate->samples.size()) {
        pending = candidate;
        break;
      }
    }
    if (pending == nullptr) {
      Open();
      pending = pending_.back();
      if (pending->samples.empty()) continue;
    }
    const size_t i = pending->claimed++;
    mutex_.Unlock();
    const Sample& sample = pending->samples[i];
    const DatasetImage& image = dataset_.images()[static_cast<size_t>(sample.dataset_index)];
    Batch& batch = *pending->batch;
    absl::Status status = pending->errors[i];
    if (status.ok()) {
      status = FillPixels(options_.pipeline, source_, normalizer_, image, pending->plans[i],
                          {batch.width(), batch.height()}, &workspace,
                          batch.data() + i * batch.image_values());
      FillMeta(sample, image, &pending->plans[i], &batch.samples[i]);
    }
    mutex_.Lock();
    pending->errors[i] = std::move(status);
    ++pending->done;
  }
}

}  // namespace muster::data
