#include "worker/train/data_split.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/status_macros.h"
#include "worker/train/failure.h"

namespace muster::train {
namespace {

namespace fs = std::filesystem;

bool IsBelow(const fs::path& path, const fs::path& folder) {
  const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end();
}

}  // namespace

absl::StatusOr<fs::path> ResolveDataRoot(const std::string& root,
                                         const std::vector<fs::path>& data_roots) {
  const std::vector<fs::path> bases = data_roots.empty() ? std::vector<fs::path>{"."} : data_roots;
  std::error_code error;
  for (const fs::path& base : bases) {
    const fs::path path =
        fs::weakly_canonical(base / root, error);  // an absolute root replaces base
    if (error || !fs::exists(path, error)) continue;
    if (!data_roots.empty() && !IsBelow(path, fs::weakly_canonical(base, error))) continue;
    return path;
  }
  return absl::NotFoundError(absl::StrCat(
      "data.root: ", root, " not found below ",
      absl::StrJoin(bases, ", ",
                    [](std::string* out, const fs::path& path) { *out += path.string(); }),
      data_roots.empty() ? "; pass --data-root" : ""));
}

absl::StatusOr<DataSplit> OpenSplit(const fs::path& root, const config::v1::Dataset& config,
                                    const std::string& field) {
  const fs::path annotations = root / config.annotations();
  const fs::path image_path = root / config.images();
  std::error_code error;
  if (!fs::exists(annotations, error)) {
    return absl::NotFoundError(
        absl::StrCat(field, ".annotations: ", annotations.string(), " not found"));
  }
  if (!fs::exists(image_path, error)) {
    return absl::NotFoundError(absl::StrCat(field, ".images: ", image_path.string(), " not found"));
  }
  MUSTER_ASSIGN_OR_RETURN(data::CocoDataset dataset, data::CocoDataset::Load(annotations));
  MUSTER_ASSIGN_OR_RETURN(std::unique_ptr<data::ImageSource> images,
                          data::OpenImageSource(image_path));
  return DataSplit{std::move(dataset), std::move(images)};
}

absl::Status CheckClasses(const DataSplit& split, const config::v1::Model& model) {
  if (split.dataset.categories().size() == model.num_classes()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "model.num_classes is ", model.num_classes(), ", but ", split.dataset.path().string(),
      " has ", split.dataset.categories().size(), " categories: set model.num_classes to that"));
}

JobData OpenJobData(const config::v1::TrainJob& job, const std::vector<fs::path>& data_roots) {
  const fs::path root =
      Require(ResolveDataRoot(job.data().root(), data_roots), base::kExitDataError);
  JobData data{
      .train = Require(OpenSplit(root, job.data().train(), "data.train"), base::kExitDataError),
      .val = Require(OpenSplit(root, job.data().val(), "data.val"), base::kExitDataError),
      .train_images = {}};
  Require(CheckClasses(data.train, job.model()), base::kExitBadConfig);
  Require(CheckClasses(data.val, job.model()), base::kExitBadConfig);
  data.train_images = data.train.dataset.TrainingImages(
      static_cast<int>(job.data().min_image_side()), job.data().keep_empty());
  if (data.train_images.empty()) {
    throw TrainingFailure(
        base::kExitDataError,
        absl::StrCat(data.train.dataset.path().string(), " has no image that can be trained on"));
  }
  Require(data::CheckMembers(data.train.dataset, data.train_images, *data.train.images),
          base::kExitDataError);
  Require(data::CheckMembers(data.val.dataset, data.val.dataset.AllImages(), *data.val.images),
          base::kExitDataError);
  return data;
}

std::vector<std::string> ClassNames(const data::CocoDataset& dataset) {
  std::vector<std::string> names;
  for (const data::Category& category : dataset.categories()) names.push_back(category.name);
  return names;
}

}  // namespace muster::train
