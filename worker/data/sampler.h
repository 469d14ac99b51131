#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

#include "muster/config/v1/train_job.pb.h"
#include "worker/data/coco_dataset.h"

namespace muster::data {

// One image of a batch.
struct Sample {
  // Into CocoDataset::images().
  int dataset_index = 0;
  // The key of the sample's random draws: its position in the epoch's order, so that an image which
  // occurs twice is augmented twice. In evaluation: the dataset index.
  int64_t sample_id = 0;

  friend bool operator==(const Sample&, const Sample&) = default;
};

// The batches of one rank, in order.
using Schedule = std::vector<std::vector<Sample>>;

// 1 when the image is wider than high, otherwise 0 (as mmdetection 0.6 groups them).
int AspectGroup(Size size);

enum class Grouping {
  // mmdetection 0.6's DistributedGroupSampler: each group is shuffled, filled up from its own head
  // (again and again when it is small) to whole chunks, and cut; then the chunks of both groups are
  // shuffled together.
  kFilledGroups,
  // mmdetection 3's AspectRatioBatchSampler: all images are shuffled; a chunk is whole when enough
  // images of its group (a square is landscape there) have come by; what is left of both groups at
  // the end is mixed, and the last chunk filled up from the head. The orientations in a chunk may
  // differ, so a fixed canvas cannot be used.
  kMixedRest,
};

// kFilledGroups for the SEED conventions and where data.pad_size is set.
Grouping GroupingOf(const config::v1::TrainJob& job);

// The order of one training epoch: a list of chunks of images_per_rank images each, of one aspect
// group, that depends on (seed, epoch) and not on the number of ranks.
//
// A pass of `world` ranks consumes the next chunks_per_pass chunks. Where these are `world`, rank r
// takes the r-th; otherwise their images, in order, are dealt out in runs that differ by at most
// one image, so that a job on fewer or more ranks than it was made for keeps its batch. Images of
// both orientations may meet in such a run. The number of chunks consumed is the cursor of a
// checkpoint: a resumed run may have another world.
class EpochPlan {
 public:
  struct Options {
    int images_per_rank = 1;
    uint64_t seed = 0;
    uint64_t epoch = 0;
    Grouping grouping = Grouping::kFilledGroups;
  };

  // `images`: indices into dataset.images().
  EpochPlan(const CocoDataset& dataset, absl::Span<const int> images, const Options& options);

  // The same in each epoch.
  int64_t chunks() const { return chunks_; }

  // The rank's batches from `cursor` chunks on. All ranks get the same number of them,
  // PassesLeft(cursor, chunks_per_pass); where the last pass has fewer chunks than it should, it
  // takes the missing ones from the epoch's head. chunks_per_pass x images_per_rank must be at
  // least `world`.
  struct Share {
    int rank = 0;
    int world = 1;
    int64_t chunks_per_pass = 1;
  };
  Schedule Batches(int64_t cursor, const Share& share) const;
  int64_t PassesLeft(int64_t cursor, int64_t chunks_per_pass) const;

 private:
  const int images_per_rank_;
  int64_t chunks_ = 0;
  std::vector<Sample> order_;
};

// Chunks of an epoch, without drawing its order.
int64_t ChunksPerEpoch(const CocoDataset& dataset, absl::Span<const int> images,
                       int images_per_rank, Grouping grouping = Grouping::kFilledGroups);

// Each image once, over all ranks: `images` ordered by aspect group and cut into batches of at most
// images_per_rank images of one group, of which rank r takes the r-th, the (r + world)-th, ...
// Batches and not images are shared out: what is in a batch with an image may change its padding
// and, by the order of additions, its last bits. Ranks may have different numbers of batches, also
// none.
Schedule EvaluationBatches(const CocoDataset& dataset, absl::Span<const int> images,
                           int images_per_rank, int rank, int world);

}  // namespace muster::data
