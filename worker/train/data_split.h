#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "muster/config/v1/train_job.pb.h"
#include "worker/data/coco_dataset.h"
#include "worker/data/image_source.h"

namespace muster::train {

// One half (training or validation) of a job's data.
struct DataSplit {
  data::CocoDataset dataset;
  std::unique_ptr<data::ImageSource> images;
};

// data.root: a relative one in the first of data_roots where it exists; an absolute one below one
// of them. No data_roots: from the current folder, and any absolute one.
absl::StatusOr<std::filesystem::path> ResolveDataRoot(
    const std::string& root, const std::vector<std::filesystem::path>& data_roots);

// Opens data.train or data.val, which `field` names in errors.
absl::StatusOr<DataSplit> OpenSplit(const std::filesystem::path& root,
                                    const config::v1::Dataset& config, const std::string& field);

// InvalidArgument when the annotations have another number of categories than the model has
// classes.
absl::Status CheckClasses(const DataSplit& split, const config::v1::Model& model);

// All of a job's data.
struct JobData {
  DataSplit train;
  DataSplit val;
  std::vector<int> train_images;  // indices of those that are trained on
};

// Opens both halves and checks that all images are there. Throws TrainingFailure: kExitDataError,
// kExitBadConfig for classes that do not fit.
JobData OpenJobData(const config::v1::TrainJob& job,
                    const std::vector<std::filesystem::path>& data_roots);

// Category names in order of the labels.
std::vector<std::string> ClassNames(const data::CocoDataset& dataset);

}  // namespace muster::train
