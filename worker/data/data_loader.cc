#include "worker/data/data_loader.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "opencv2/core.hpp"
#include "opencv2/imgproc.hpp"

#include "common/base/status_macros.h"
#include "worker/data/decode.h"

namespace muster::data {
namespace {

constexpr size_t kAlignment = 64;

// What one loader thread keeps from image to image.
struct Workspace {
  ImageDecoder decoder;
  std::vector<uint8_t> file;
  std::vector<uint8_t> decoded;
  std::vector<uint8_t> resized;
};

absl::Status Resize(const std::vector<uint8_t>& in, Size from, Size to, std::vector<uint8_t>* out) {
  out->resize(size_t{3} * static_cast<size_t>(to.width) * static_cast<size_t>(to.height));
  try {
    const cv::Mat source(from.height, from.width, CV_8UC3, const_cast<uint8_t*>(in.data()));
    cv::Mat target(to.height, to.width, CV_8UC3, out->data());
    cv::resize(source, target, target.size(), 0, 0, cv::INTER_LINEAR);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("cannot be resized: ", error.what()));
  }
  return absl::OkStatus();
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
  std::vector<ImagePlan> plans;
  std::vector<absl::Status> errors;  // of each sample
  size_t claimed = 0;
  size_t done = 0;
};

DataLoader::DataLoader(const Options& options, const CocoDataset& dataset,
                       const ImageSource& source)
    : options_(options),
      dataset_(dataset),
      source_(source),
      normalizer_(options.pipeline),
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
  for (const Sample& sample : pending->samples) {
    const DatasetImage& image = dataset_.images()[static_cast<size_t>(sample.dataset_index)];
    pending->plans.push_back(
        PlanImage(options_.pipeline, image.size, options_.seed, epoch_, sample.sample_id));
  }
  pending->batch = pool_->Take();
  pending->batch->Resize(static_cast<int>(pending->samples.size()),
                         BatchSize(options_.pipeline, pending->plans));
  pending->batch->samples.resize(pending->samples.size());
  pending_.push_back(std::move(pending));
}

namespace {

void FillMeta(const PipelineOptions& options, const Sample& sample, const DatasetImage& image,
              const ImagePlan& plan, SampleMeta* meta) {
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
  meta->labels = image.labels;
  meta->gt_bboxes.clear();
  for (const Box& box : image.boxes) meta->gt_bboxes.push_back(TransformBox(options, plan, box));
  meta->gt_bboxes_ignore.clear();
  for (const Box& box : image.crowd_boxes) {
    meta->gt_bboxes_ignore.push_back(TransformBox(options, plan, box));
  }
}

// The image's pixels into its place `out` of a batch.
absl::Status FillPixels(const ImageSource& source, const Normalizer& normalizer,
                        const DatasetImage& image, const ImagePlan& plan, Size batch,
                        Workspace* workspace, float* out) {
  MUSTER_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> file,
                          source.Read(image.file_name, &workspace->file));
  const auto in_image = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(source.name(), ": image ", image.file_name,
                                                    ": ", status.message()));
  };
  const absl::StatusOr<Size> size = workspace->decoder.Decode(file, &workspace->decoded);
  if (!size.ok()) return in_image(size.status());
  if (*size != plan.original) {
    return in_image(absl::InvalidArgumentError(
        absl::StrCat("it has ", size->width, "x", size->height, " pixels, the annotations say ",
                     plan.original.width, "x", plan.original.height)));
  }
  const std::vector<uint8_t>* pixels = &workspace->decoded;
  if (plan.resized != plan.original) {
    const absl::Status status =
        Resize(workspace->decoded, plan.original, plan.resized, &workspace->resized);
    if (!status.ok()) return in_image(status);
    pixels = &workspace->resized;
  }
  normalizer.Write(*pixels, plan.resized, plan.flip, batch, out);
  return absl::OkStatus();
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
    const ImagePlan& plan = pending->plans[i];
    Batch& batch = *pending->batch;
    FillMeta(options_.pipeline, sample, image, plan, &batch.samples[i]);
    absl::Status status =
        FillPixels(source_, normalizer_, image, plan, {batch.width(), batch.height()}, &workspace,
                   batch.data() + i * batch.image_values());
    mutex_.Lock();
    pending->errors[i] = std::move(status);
    ++pending->done;
  }
}

}  // namespace muster::data
