#include "worker/eval/coco_files.h"

#include <charconv>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/data/coco_annotations.h"
#include "worker/data/json_fields.h"

namespace muster::eval {
namespace {

// The shortest decimal that reads back as the same double.
void AppendNumber(std::string* out, double value) {
  char buffer[32];
  const std::to_chars_result end = std::to_chars(buffer, buffer + sizeof(buffer), value);
  out->append(buffer, end.ptr);
}

absl::StatusOr<Detection> ReadDetection(simdjson::ondemand::object& json,
                                        const data::JsonEntry& entry) {
  Detection detection;
  MUSTER_ASSIGN_OR_RETURN(detection.image_id, data::IntegerField(json, "image_id", entry));
  MUSTER_ASSIGN_OR_RETURN(detection.category_id, data::IntegerField(json, "category_id", entry));
  MUSTER_RETURN_IF_ERROR(data::BoxField(json, "bbox", entry, detection.bbox.data()));
  MUSTER_ASSIGN_OR_RETURN(detection.score, data::NumberField(json, "score", entry));
  return detection;
}

}  // namespace

absl::StatusOr<GroundTruth> ReadGroundTruth(const std::filesystem::path& path) {
  MUSTER_ASSIGN_OR_RETURN(data::AnnotationFile parsed, data::ReadAnnotationFile(path));
  GroundTruth ground_truth;
  for (const data::AnnotatedImage& image : parsed.images)
    ground_truth.image_ids.push_back(image.id);
  for (data::Category& category : parsed.categories) {
    ground_truth.categories.push_back({category.id, std::move(category.name)});
  }
  for (const data::Annotation& a : parsed.annotations) {
    ground_truth.boxes.push_back({.id = a.id,
                                  .image_id = a.image_id,
                                  .category_id = a.category_id,
                                  .bbox = {a.x, a.y, a.width, a.height},
                                  .area = a.area,
                                  .crowd = a.crowd});
    if (a.id == 0) {
      base::Log(base::LogSeverity::kWarning, "eval",
                "annotation id 0: COCO's evaluation counts its detections as wrong; number the "
                "annotations from 1",
                {{"file", path.string()}});
    }
  }
  return ground_truth;
}

absl::StatusOr<std::vector<Detection>> ReadDetections(const std::filesystem::path& path) {
  const std::string file = path.string();
  MUSTER_ASSIGN_OR_RETURN(const simdjson::padded_string text, data::LoadJson(path));
  simdjson::ondemand::parser parser;
  simdjson::ondemand::document document;
  if (const auto error = parser.iterate(text).get(document)) {
    return data::JsonFileError(file, error);
  }
  simdjson::ondemand::json_type type;
  if (const auto error = document.type().get(type)) return data::JsonFileError(file, error);
  simdjson::ondemand::array array;
  const bool is_list = type == simdjson::ondemand::json_type::array;
  const auto error =
      is_list ? document.get_array().get(array) : document["annotations"].get_array().get(array);
  if (error == simdjson::INCORRECT_TYPE || error == simdjson::NO_SUCH_FIELD) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": not a COCO results file, which is a list of detections"));
  }
  if (error) return data::JsonFileError(file, error);
  std::vector<Detection> detections;
  for (auto item : array) {
    const data::JsonEntry entry = {.file = file,
                                   .list = is_list ? "" : "annotations",
                                   .index = static_cast<int64_t>(detections.size())};
    simdjson::ondemand::object json;
    if (const auto problem = item.get_object().get(json)) {
      return data::JsonError(entry, "", simdjson::error_message(problem));
    }
    MUSTER_ASSIGN_OR_RETURN(detections.emplace_back(), ReadDetection(json, entry));
  }
  return detections;
}

absl::Status CheckDetections(const GroundTruth& ground_truth,
                             absl::Span<const Detection> detections) {
  const absl::flat_hash_set<int64_t> images(ground_truth.image_ids.begin(),
                                            ground_truth.image_ids.end());
  for (size_t i = 0; i < detections.size(); ++i) {
    if (!images.contains(detections[i].image_id)) {
      return absl::InvalidArgumentError(absl::StrCat("detections: entry [", i, "], image_id ",
                                                     detections[i].image_id,
                                                     " is not in the annotations"));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteDetections(const std::filesystem::path& path,
                             absl::Span<const Detection> detections) {
  std::string text = "[";
  text.reserve(detections.size() * 128 + 4);
  for (const Detection& detection : detections) {
    absl::StrAppend(&text, text.size() == 1 ? "\n" : ",\n", "{\"image_id\":", detection.image_id,
                    ",\"category_id\":", detection.category_id, ",\"bbox\":[");
    for (size_t i = 0; i < detection.bbox.size(); ++i) {
      if (i != 0) text.push_back(',');
      AppendNumber(&text, detection.bbox[i]);
    }
    text.append("],\"score\":");
    AppendNumber(&text, detection.score);
    text.push_back('}');
  }
  text.append("\n]\n");
  return base::WriteFileAtomically(path, text);
}

}  // namespace muster::eval
