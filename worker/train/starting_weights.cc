#include "worker/train/starting_weights.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/pth_reader.h"
#include "worker/checkpoint/safetensors_reader.h"
#include "worker/train/checkpoint.h"

namespace muster::train {
namespace {

constexpr absl::string_view kBackbone = "backbone.";
// Of HRNet's, torchvision's and mmpretrain's classifiers.
constexpr absl::string_view kClassifierHeads[] = {
    "incre_modules.", "downsamp_modules.", "final_layer.", "classifier.", "fc.", "head."};
constexpr absl::string_view kClassScores = "roi_head.bbox_head.fc_cls.";
constexpr absl::string_view kClassBoxes = "roi_head.bbox_head.fc_reg.";
constexpr absl::string_view kBatchCount = ".num_batches_tracked";

bool AnyStartsWith(const NamedTensors& tensors, std::initializer_list<absl::string_view> prefixes) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](absl::string_view prefix) {
      return absl::StartsWith(item.first, prefix);
    });
  });
}

WeightsKind KindOf(const NamedTensors& tensors) {
  if (AnyStartsWith(tensors, {"bbox_head.", "neck.reduction_conv.0.", "neck.fpn_conv."})) {
    return WeightsKind::kMmdetection06;
  }
  if (AnyStartsWith(tensors, {"neck.", "rpn_head.", "roi_head."})) return WeightsKind::kMmdetection;
  return WeightsKind::kClassifier;
}

std::string ReplacePrefix(const std::string& name, absl::string_view prefix,
                          absl::string_view replacement) {
  if (!absl::StartsWith(name, prefix)) return name;
  return absl::StrCat(replacement, absl::StripPrefix(name, prefix));
}

std::string FromMmdetection06(const std::string& given) {
  std::string name = ReplacePrefix(given, "bbox_head.", "roi_head.bbox_head.");
  name = ReplacePrefix(name, "neck.reduction_conv.0.", "neck.reduction_conv.conv.");
  // neck.fpn_conv.2.weight becomes neck.fpn_convs.2.conv.weight.
  constexpr absl::string_view kFpnConv = "neck.fpn_conv.";
  const size_t dot =
      absl::StartsWith(name, kFpnConv) ? name.find('.', kFpnConv.size()) : std::string::npos;
  if (dot == std::string::npos) return name;
  return absl::StrCat("neck.fpn_convs.", name.substr(kFpnConv.size(), dot - kFpnConv.size()),
                      ".conv.", name.substr(dot + 1));
}

// Rows of classes: background goes from first to last in fc_cls and out of fc_reg, unless that has
// the same four rows for all classes.
at::Tensor WithBackgroundLast(const std::string& name, const at::Tensor& tensor) {
  if (tensor.dim() == 0) return tensor;
  if (absl::StartsWith(name, kClassScores) && tensor.size(0) > 1) {
    return at::cat({tensor.slice(0, 1), tensor.slice(0, 0, 1)});
  }
  if (absl::StartsWith(name, kClassBoxes) && tensor.size(0) > 4) return tensor.slice(0, 4);
  return tensor;
}

bool IsClassifierHead(const std::string& name) {
  return std::any_of(std::begin(kClassifierHeads), std::end(kClassifierHeads),
                     [&](absl::string_view prefix) { return absl::StartsWith(name, prefix); });
}

// Whether only the number of classes, their first dimension, tells the two apart.
bool DifferInRows(const at::Tensor& a, const at::Tensor& b) {
  return a.dim() > 0 && a.dim() == b.dim() && a.size(0) != b.size(0) &&
         a.sizes().slice(1) == b.sizes().slice(1);
}

// fc_cls and fc_reg, when the file's are for another number of classes.
std::set<std::string> OtherClasses(const std::map<std::string, at::Tensor>& given,
                                   const NamedTensors& own) {
  std::set<std::string> names;
  bool scores_differ = false;
  for (const auto& [name, tensor] : own) {
    const auto found = given.find(name);
    if (found == given.end() || !DifferInRows(found->second, tensor)) continue;
    if (absl::StartsWith(name, kClassScores)) scores_differ = true;
    if (absl::StartsWith(name, kClassScores) || absl::StartsWith(name, kClassBoxes)) {
      names.insert(name);
    }
  }
  // Boxes alone that do not fit are another kind of head, not other classes.
  if (!scores_differ) names.clear();
  return names;
}

// LoadStateDict with the module's own values for what `may_keep` names and the file does not have.
template <typename MayKeep>
absl::Status LoadRest(const Weights& weights, const std::filesystem::path& path,
                      const MayKeep& may_keep, torch::nn::Module& module) {
  NamedTensors complete = weights.tensors;
  std::set<std::string> given;
  for (const auto& [name, tensor] : complete) given.insert(name);
  for (const auto& [name, tensor] : StateDict(module)) {
    if (given.count(name) == 0 && may_keep(name)) {
      complete.emplace_back(name, tensor.detach().clone());
    }
  }
  return LoadStateDict(complete, absl::StrCat(path.string(), " (", NameOf(weights.kind), ")"),
                       module);
}

bool IsBatchCount(const std::string& name) { return absl::EndsWith(name, kBatchCount); }

// "classifier (2), final_layer (7)".
std::string CountByPart(const std::vector<std::string>& names) {
  std::map<std::string, int> parts;
  for (const std::string& name : names) ++parts[name.substr(0, name.find('.'))];
  return absl::StrJoin(parts, ", ", [](std::string* out, const auto& part) {
    absl::StrAppend(out, part.first, " (", part.second, ")");
  });
}

}  // namespace

absl::string_view NameOf(WeightsKind kind) {
  switch (kind) {
    case WeightsKind::kMuster:
      return "Muster checkpoint";
    case WeightsKind::kMmdetection:
      return "mmdetection 3 detector";
    case WeightsKind::kMmdetection06:
      return "mmdetection 0.6 detector";
    case WeightsKind::kClassifier:
      return "ImageNet classifier";
  }
  return "";
}

Weights Recognise(NamedTensors tensors) {
  Weights weights{.kind = KindOf(tensors), .tensors = std::move(tensors)};
  for (auto& [name, tensor] : weights.tensors) {
    if (weights.kind == WeightsKind::kMmdetection06) {
      name = FromMmdetection06(name);
      tensor = WithBackgroundLast(name, tensor);
    } else if (weights.kind == WeightsKind::kClassifier && !absl::StartsWith(name, kBackbone) &&
               !IsClassifierHead(name)) {
      name = absl::StrCat(kBackbone, name);
    }
  }
  return weights;
}

absl::StatusOr<Weights> ReadWeights(const std::filesystem::path& path) {
  const absl::StatusOr<std::string> bytes = base::ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  if (checkpoint::LooksLikeSafetensors(*bytes)) {
    MUSTER_ASSIGN_OR_RETURN(const checkpoint::NamedTensors tensors,
                            checkpoint::ReadSafetensorsFrom(*bytes, path.string()));
    return Recognise(ToTorch(tensors));
  }
  MUSTER_ASSIGN_OR_RETURN(const checkpoint::Value value,
                          checkpoint::ReadPthFrom(*bytes, path.string()));
  const checkpoint::Value* state_dict = value.Find("state_dict");
  MUSTER_ASSIGN_OR_RETURN(
      const checkpoint::NamedTensors tensors,
      checkpoint::TensorsOf(state_dict == nullptr ? value : *state_dict, path.string()));
  Weights weights = Recognise(ToTorch(tensors));
  const checkpoint::Value* meta = value.Find("meta");
  if (meta != nullptr && meta->Find("muster") != nullptr) weights.kind = WeightsKind::kMuster;
  return weights;
}

absl::StatusOr<LoadedWeights> LoadStartingWeights(const std::filesystem::path& path,
                                                  torch::nn::Module& module) {
  MUSTER_ASSIGN_OR_RETURN(Weights weights, ReadWeights(path));
  LoadedWeights loaded;
  loaded.kind = weights.kind;
  const bool classifier = weights.kind == WeightsKind::kClassifier;
  const std::set<std::string> kept =
      OtherClasses({weights.tensors.begin(), weights.tensors.end()}, StateDict(module));
  loaded.kept_heads.assign(kept.begin(), kept.end());
  NamedTensors taken;
  for (auto& [name, tensor] : weights.tensors) {
    if (classifier && IsClassifierHead(name)) {
      loaded.ignored.push_back(name);
    } else if (kept.count(name) == 0) {
      taken.emplace_back(name, tensor);
    }
  }
  loaded.taken = static_cast<int64_t>(taken.size());
  weights.tensors = std::move(taken);
  const auto may_keep = [&](const std::string& name) {
    return IsBatchCount(name) || kept.count(name) > 0 ||
           (classifier && !absl::StartsWith(name, kBackbone));
  };
  MUSTER_RETURN_IF_ERROR(LoadRest(weights, path, may_keep, module));
  return loaded;
}

void LogStartingWeights(const std::filesystem::path& path, const LoadedWeights& loaded) {
  base::Log(base::LogSeverity::kInfo, "trainer", "starting weights loaded",
            {{"file", path.string()},
             {"kind", NameOf(loaded.kind)},
             {"tensors", loaded.taken},
             {"ignored", loaded.ignored.empty() ? "none" : CountByPart(loaded.ignored)}});
  if (loaded.kept_heads.empty()) return;
  base::Log(base::LogSeverity::kWarning, "trainer",
            "the starting weights are for another number of classes: these layers start random",
            {{"file", path.string()}, {"layers", absl::StrJoin(loaded.kept_heads, ", ")}});
}

absl::Status LoadDetector(const std::filesystem::path& path, torch::nn::Module& module) {
  MUSTER_ASSIGN_OR_RETURN(const Weights weights, ReadWeights(path));
  return LoadRest(weights, path, IsBatchCount, module);
}

}  // namespace muster::train
