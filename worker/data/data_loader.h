#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

#include "worker/data/coco_dataset.h"
#include "worker/data/geometry.h"
#include "worker/data/image_source.h"
#include "worker/data/sampler.h"
#include "worker/data/transforms.h"

namespace muster::data {

// One image of a batch. Boxes are half-open xyxy in pixels of the resized (and flipped) image.
struct SampleMeta {
  int64_t image_id = 0;   // of the annotations
  int dataset_index = 0;  // into CocoDataset::images()
  int64_t sample_id = 0;  // the key of its random draws
  int ori_w = 0;          // as annotated
  int ori_h = 0;
  int img_w = 0;  // resized, before padding
  int img_h = 0;
  // Its own size rounded up to size_divisor, where the batch may be larger; the fixed size, where
  // there is one and conventions are MMDET3.
  int pad_w = 0;
  int pad_h = 0;
  // Multiply original by these to get resized coordinates (equal with the SEED conventions); where
  // training crops or expands the image, coordinates of what came of it.
  double scale_w = 1;
  double scale_h = 1;
  bool flip = false;
  std::vector<Box> gt_bboxes;
  std::vector<int64_t> labels;  // of gt_bboxes, 0 .. classes - 1
  std::vector<Box> gt_bboxes_ignore;
};

// A batch in NCHW float32, RGB. The memory is 64-byte aligned.
class Batch {
 public:
  // Makes room for images x 3 x height x width values, which are not initialised.
  void Resize(int images, Size size);

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  int images() const { return images_; }
  static constexpr int channels() { return 3; }
  int height() const { return size_.height; }
  int width() const { return size_.width; }
  // Values of one image.
  size_t image_values() const {
    return size_t{3} * static_cast<size_t>(size_.height) * static_cast<size_t>(size_.width);
  }

  // One for each image.
  std::vector<SampleMeta> samples;

 private:
  struct Free {
    void operator()(float* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<float[], Free> data_;
  size_t capacity_ = 0;
  int images_ = 0;
  Size size_;
};

// Decodes and transforms a rank's batches ahead of the trainer, in threads of its own. What comes
// out depends on the options and the schedule alone, not on threads or timing. One thread uses it.
//
// An image of which the augmentation leaves no object (or that has none, with replace_empty) gives
// its place to a drawn one of its aspect group, whose ids the sample then carries.
class DataLoader {
 public:
  struct Options {
    PipelineOptions pipeline;
    uint64_t seed = 0;
    int threads = 1;
    // Batches that are decoded or being decoded, besides those handed out.
    int prefetch_batches = 2;
  };

  // dataset and source must outlive the loader. Switches OpenCV's own threads off for the whole
  // process: they would fight with the loader's and torch's for the rank's share of the cores.
  DataLoader(const Options& options, const CocoDataset& dataset, const ImageSource& source);
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  // Drops what is under way and begins `schedule`; `epoch` is a key of the random draws.
  void Start(uint64_t epoch, Schedule schedule);

  // The schedule's next batch, or null after its last one. The error of the first sample of the
  // batch that has one, with the image's name; after an error only Start goes on. The buffer goes
  // back to the loader when the last copy of the pointer goes (which may be after the loader):
  //   auto tensor = torch::from_blob(batch->data(), {...}, [batch](void*) {});
  absl::StatusOr<std::shared_ptr<Batch>> Next();

 private:
  struct Pending;
  class Pool;

  void Run();
  // A batch to work on exists: one that has unclaimed samples, or room for a new one.
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Open() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // sample->dataset_index becomes that of the image that is taken.
  absl::StatusOr<ImagePlan> Plan(uint64_t epoch, Sample* sample) const;

  // Constant after construction.
  const Options options_;
  const CocoDataset& dataset_;
  const ImageSource& source_;
  const Normalizer normalizer_;
  // Images with objects that may take another's place, by aspect group.
  const std::array<std::vector<int>, 2> replacements_;
  const std::shared_ptr<Pool> pool_;

  absl::Mutex mutex_;
  Schedule schedule_ ABSL_GUARDED_BY(mutex_);
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t next_batch_ ABSL_GUARDED_BY(mutex_) = 0;  // in schedule_, to be opened
  std::deque<std::shared_ptr<Pending>> pending_
      ABSL_GUARDED_BY(mutex_);  // in order of the schedule
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace muster::data
