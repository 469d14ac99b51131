#include <torch/torch.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/config/render.h"
#include "worker/data/transforms.h"
#include "worker/train/failure.h"
#include "worker/train/starting_weights.h"
#include "worker/train/trainer.h"

// What happens before the first step.
namespace muster::train {
namespace {

int64_t DivideUp(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// An elastic job's step has the images of `nodes` nodes wherever it runs.
bool KeepsBatch(const config::v1::Resources& resources) {
  return resources.elastic_batch() == config::v1::ELASTIC_BATCH_KEEP &&
         resources.min_nodes() != resources.max_nodes();
}

}  // namespace

Trainer::Trainer(const TrainRequest& request, const dist::RankEnvironment& rank, at::Device device,
                 const dist::ProcessGroups& groups, WorkerReporter& reporter,
                 const StopSignal& stop)
    : request_(request),
      job_(request_.job),
      rank_(rank),
      device_(device),
      groups_(groups),
      control_(*groups.control()),
      reporter_(reporter),
      stop_(stop),
      data_(OpenJobData(job_, request_.data_roots)) {
  chunks_per_epoch_ =
      data::ChunksPerEpoch(data_.train.dataset, data_.train_images,
                           static_cast<int>(job_.data().images_per_rank()), data::GroupingOf(job_));
  chunks_per_pass_ = KeepsBatch(job_.resources())
                         ? int64_t{job_.resources().nodes()} * job_.resources().ranks_per_node()
                         : control_.size();
  if (ImagesPerPass() < control_.size()) {
    throw TrainingFailure(base::kExitBadConfig,
                          absl::StrCat(control_.size(), " ranks share ", ImagesPerPass(),
                                       " images a step: lower resources.max_nodes or set "
                                       "resources.elastic_batch to ELASTIC_BATCH_SCALE_LR"));
  }
  images_per_step_ = ImagesPerPass() * job_.schedule().accumulative_counts();

  data::DataLoader::Options options;
  options.pipeline = Require(data::TrainingPipeline(job_), base::kExitBadConfig);
  options.seed = job_.seed();
  options.threads = static_cast<int>(job_.data().loader_threads());
  options.prefetch_batches = static_cast<int>(job_.data().prefetch_batches());
  loader_ = std::make_unique<data::DataLoader>(options, data_.train.dataset, *data_.train.images);
  evaluator_ = std::make_unique<Evaluator>(job_, data_.val, device_);

  BuildModel();
  BuildOptimizer();
  OpenOutput();
}

Trainer::~Trainer() = default;

void Trainer::BuildModel() {
  model_ = model::FasterRCNN(job_.model(), job_.seed());
  if (!job_.model().load_from().empty()) {
    const std::filesystem::path path = Require(
        ResolveDataRoot(job_.model().load_from(), request_.data_roots), base::kExitCheckpointError);
    const LoadedWeights loaded =
        Require(LoadStartingWeights(path, *model_), base::kExitCheckpointError);
    if (control_.rank() == 0) LogStartingWeights(path, loaded);
  }
  model_->to(device_);
  if (control_.size() > 1) model_->SetSyncBatchNormCommunicator(groups_.sync_batch_norm());
  model_->train();
}

void Trainer::BuildOptimizer() {
  // The reducer's buckets first: they must not depend on where training resumes.
  reducer_ = std::make_unique<dist::GradientReducer>(
      model_->TrainableParameters(), groups_,
      static_cast<int64_t>(job_.distributed().bucket_cap_bytes()));
  const config::v1::SGD& optimizer = job_.schedule().optimizer();
  sgd_ = std::make_unique<Sgd>(
      model_->TrainableParameters(),
      Sgd::Options{.momentum = optimizer.momentum(), .weight_decay = optimizer.weight_decay()});
  schedule_ = std::make_unique<LrSchedule>(job_.schedule(), images_per_step_);
  position_.first_images_per_step = images_per_step_;

  const std::optional<Snapshot> snapshot =
      ReceiveSnapshot(request_.resume, request_.output, control_);
  if (snapshot.has_value()) {
    Require(LoadStateDict(snapshot->model, "the checkpoint", *model_), base::kExitCheckpointError);
    if (snapshot->momentum.size() != sgd_->parameters().size()) {
      throw TrainingFailure(base::kExitCheckpointError,
                            "the checkpoint holds momentum of another model");
    }
    sgd_->Restore(snapshot->momentum);
    position_ = snapshot->position;
    RequireSameChunks();
    position_.parent_generation = snapshot->position.generation;
    position_.parent_step = snapshot->position.step;
  } else {
    BroadcastModel(/*buffers_only=*/false);
  }
  position_.generation = request_.generation;
  position_.world_size = control_.size();
  position_.images_per_rank = job_.data().images_per_rank();
}

void Trainer::RequireSameChunks() const {
  const int64_t asked = job_.data().images_per_rank();
  if (position_.cursor == 0 || position_.images_per_rank == 0 ||
      position_.images_per_rank == asked) {
    return;
  }
  throw TrainingFailure(
      base::kExitBadConfig,
      absl::StrCat("data.images_per_rank is ", asked, ", but the checkpoint (step ", position_.step,
                   ") lies within an epoch that was cut by ", position_.images_per_rank,
                   ": go on with that, or from the checkpoint of a whole epoch"));
}

void Trainer::OpenOutput() {
  Require(base::CreateFolders(request_.output), base::kExitUsage);
  last_checkpoint_ = base::MonotonicNow();
  if (rank_.local_rank == 0) {
    writer_ = std::make_unique<CheckpointWriter>(
        CheckpointWriter::Options{.folder = request_.output,
                                  .job = request_.job_name,
                                  .keep_last = static_cast<int>(job_.checkpointing().keep_last())},
        [this](const v1::Checkpoint& checkpoint) { reporter_.Checkpoint(checkpoint); });
  }
  if (control_.rank() != 0) return;
  Require(
      base::WriteFileAtomically(request_.output / "config.textproto", config::RenderTrainJob(job_)),
      base::kExitUsage);
  log_ = Require(TrainingLog::Open({.folder = request_.output,
                                    .total_epochs = static_cast<int>(job_.schedule().epochs()),
                                    .steps_per_epoch = StepsPerEpoch(),
                                    .total_steps = TotalSteps()},
                                   position_.step),
                 base::kExitUsage);
  base::Log(base::LogSeverity::kInfo, "trainer",
            position_.step > 0 ? "training resumes" : "training starts",
            {{"ranks", control_.size()},
             {"images_per_step", images_per_step_},
             {"training_images", data_.train_images.size()},
             {"validation_images", data_.val.dataset.images().size()},
             {"step", position_.step},
             {"total_steps", TotalSteps()},
             {"output", request_.output.string()}});
}

void Trainer::BroadcastModel(bool buffers_only) {
  if (control_.size() == 1) return;
  const at::NoGradGuard no_grad;
  dist::Communicator& group = *groups_.sync_batch_norm();
  // One broadcast a type in place of one a tensor.
  for (const at::ScalarType type : {at::kFloat, at::kLong}) {
    std::vector<at::Tensor> tensors;
    std::vector<at::Tensor> flat;
    for (const at::Tensor& tensor : buffers_only ? model_->buffers() : model_->parameters()) {
      if (tensor.scalar_type() == type) tensors.push_back(tensor);
    }
    if (!buffers_only) {
      for (const at::Tensor& tensor : model_->buffers()) {
        if (tensor.scalar_type() == type) tensors.push_back(tensor);
      }
    }
    if (tensors.empty()) continue;
    for (const at::Tensor& tensor : tensors) flat.push_back(tensor.detach().reshape({-1}));
    const at::Tensor all = at::cat(flat);
    group.Broadcast(all, 0);
    int64_t offset = 0;
    for (at::Tensor& tensor : tensors) {
      tensor.copy_(all.narrow(0, offset, tensor.numel()).reshape(tensor.sizes()));
      offset += tensor.numel();
    }
  }
}

int64_t Trainer::ImagesPerPass() const { return chunks_per_pass_ * job_.data().images_per_rank(); }

int64_t Trainer::PassesLeft() const {
  const int64_t chunks = std::max<int64_t>(0, chunks_per_epoch_ - position_.cursor);
  return DivideUp(chunks, chunks_per_pass_);
}

int64_t Trainer::StepsLeft() const {
  return DivideUp(PassesLeft(), job_.schedule().accumulative_counts());
}

int64_t Trainer::StepsPerEpoch() const {
  return DivideUp(DivideUp(chunks_per_epoch_, chunks_per_pass_),
                  job_.schedule().accumulative_counts());
}

int64_t Trainer::TotalSteps() const {
  // A job that was resumed with another number of ranks did its first epochs in other steps.
  const int64_t epochs = job_.schedule().epochs();
  int64_t total = position_.step;
  if (position_.epoch < epochs) {
    total += StepsLeft() + (epochs - position_.epoch - 1) * StepsPerEpoch();
  }
  return request_.max_steps.has_value() ? std::min(total, *request_.max_steps) : total;
}

}  // namespace muster::train
