#include "worker/data/coco_annotations.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/base/status_macros.h"
#include "worker/data/json_fields.h"

namespace muster::data {
namespace {

using simdjson::ondemand::object;

// Nobody's photograph is larger; keeps products of sides within an int.
constexpr int64_t kMaxSide = 1 << 20;

absl::StatusOr<int> Side(object& json, absl::string_view field, const JsonEntry& entry) {
  int64_t side = 0;
  MUSTER_RETURN_IF_ERROR(OptionalInteger(json, field, entry, &side));
  if (side < 0 || side > kMaxSide) {
    return JsonError(entry, field, absl::StrCat("not 0 .. ", kMaxSide, " pixels"));
  }
  return static_cast<int>(side);
}

absl::Status ReadImage(object& json, JsonEntry entry, AnnotatedImage* image) {
  MUSTER_ASSIGN_OR_RETURN(image->id, IntegerField(json, "id", entry));
  entry.id = image->id;
  MUSTER_RETURN_IF_ERROR(OptionalString(json, "file_name", entry, &image->file_name));
  MUSTER_ASSIGN_OR_RETURN(image->width, Side(json, "width", entry));
  MUSTER_ASSIGN_OR_RETURN(image->height, Side(json, "height", entry));
  return absl::OkStatus();
}

absl::Status ReadCategory(object& json, JsonEntry entry, Category* category) {
  MUSTER_ASSIGN_OR_RETURN(category->id, IntegerField(json, "id", entry));
  entry.id = category->id;
  MUSTER_RETURN_IF_ERROR(OptionalString(json, "name", entry, &category->name));
  if (category->name.empty()) return JsonError(entry, "name", "missing");
  return absl::OkStatus();
}

absl::Status ReadAnnotation(object& json, JsonEntry entry, Annotation* annotation) {
  MUSTER_ASSIGN_OR_RETURN(annotation->id, IntegerField(json, "id", entry));
  entry.id = annotation->id;
  MUSTER_ASSIGN_OR_RETURN(annotation->image_id, IntegerField(json, "image_id", entry));
  MUSTER_ASSIGN_OR_RETURN(annotation->category_id, IntegerField(json, "category_id", entry));
  double box[4] = {};
  MUSTER_RETURN_IF_ERROR(BoxField(json, "bbox", entry, box));
  annotation->x = box[0];
  annotation->y = box[1];
  annotation->width = box[2];
  annotation->height = box[3];
  MUSTER_ASSIGN_OR_RETURN(annotation->area, NumberField(json, "area", entry));
  MUSTER_RETURN_IF_ERROR(OptionalFlag(json, "iscrowd", entry, &annotation->crowd));
  MUSTER_RETURN_IF_ERROR(OptionalFlag(json, "ignore", entry, &annotation->ignore));
  return absl::OkStatus();
}

template <typename Entry>
absl::Status ReadList(simdjson::ondemand::value json, absl::string_view file,
                      absl::string_view list, absl::Status (*read)(object&, JsonEntry, Entry*),
                      std::vector<Entry>* out) {
  simdjson::ondemand::array array;
  if (json.get_array().get(array) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": field ", list, ": not a list"));
  }
  absl::flat_hash_map<int64_t, int64_t> seen;
  for (auto item : array) {
    JsonEntry entry = {.file = file, .list = list, .index = static_cast<int64_t>(out->size())};
    object fields;
    if (const auto error = item.get_object().get(fields)) {
      return JsonError(entry, "", simdjson::error_message(error));
    }
    MUSTER_RETURN_IF_ERROR(read(fields, entry, &out->emplace_back()));
    entry.id = out->back().id;
    if (const auto [first, inserted] = seen.emplace(entry.id, entry.index); !inserted) {
      return JsonError(entry, "id", absl::StrCat("also of ", list, "[", first->second, "]"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckReferences(const AnnotationFile& parsed, absl::string_view file) {
  absl::flat_hash_set<int64_t> images;
  for (const AnnotatedImage& image : parsed.images) images.insert(image.id);
  absl::flat_hash_set<int64_t> categories;
  for (const Category& category : parsed.categories) categories.insert(category.id);
  int64_t index = 0;
  for (const Annotation& annotation : parsed.annotations) {
    const JsonEntry entry = {
        .file = file, .list = "annotations", .index = index++, .id = annotation.id};
    if (!images.contains(annotation.image_id)) {
      return JsonError(entry, "image_id",
                       absl::StrCat(annotation.image_id, " is not in the list of images"));
    }
    if (!categories.contains(annotation.category_id)) {
      return JsonError(entry, "category_id",
                       absl::StrCat(annotation.category_id, " is not in the list of categories"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AnnotationFile> ReadAnnotationFile(const std::filesystem::path& path) {
  const std::string file = path.string();
  MUSTER_ASSIGN_OR_RETURN(const simdjson::padded_string text, LoadJson(path));
  simdjson::ondemand::parser parser;
  simdjson::ondemand::document document;
  object root;
  if (const auto error = parser.iterate(text).get(document)) return JsonFileError(file, error);
  if (const auto error = document.get_object().get(root)) return JsonFileError(file, error);

  AnnotationFile parsed;
  bool has_images = false;
  bool has_categories = false;
  bool has_annotations = false;
  for (auto field : root) {
    std::string_view key;
    simdjson::ondemand::value json;
    if (const auto error = field.unescaped_key().get(key)) return JsonFileError(file, error);
    const std::string name(key);
    if (const auto error = field.value().get(json)) return JsonFileError(file, error);
    if (name == "images") {
      has_images = true;
      MUSTER_RETURN_IF_ERROR(ReadList(json, file, name, ReadImage, &parsed.images));
    } else if (name == "categories") {
      has_categories = true;
      MUSTER_RETURN_IF_ERROR(ReadList(json, file, name, ReadCategory, &parsed.categories));
    } else if (name == "annotations") {
      has_annotations = true;
      MUSTER_RETURN_IF_ERROR(ReadList(json, file, name, ReadAnnotation, &parsed.annotations));
    }
  }
  for (const auto& [present, name] :
       {std::pair(has_images, "images"), std::pair(has_categories, "categories"),
        std::pair(has_annotations, "annotations")}) {
    if (!present) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": no list \"", name, "\": not a COCO instances file"));
    }
  }
  MUSTER_RETURN_IF_ERROR(CheckReferences(parsed, file));
  std::sort(parsed.categories.begin(), parsed.categories.end(),
            [](const Category& a, const Category& b) { return a.id < b.id; });
  return parsed;
}

}  // namespace muster::data
