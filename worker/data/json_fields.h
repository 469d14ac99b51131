#pragma once

#include <simdjson.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What the readers of COCO's JSON files share: typed fields of an entry, and errors that say where.
namespace muster::data {

// An entry of a top-level list, for error messages: "instances_val.json: annotations[12] (id 34)".
struct JsonEntry {
  absl::string_view file;
  absl::string_view list;  // empty: the file itself is the list
  int64_t index = 0;
  int64_t id = -1;  // -1: not known

  std::string Name() const;
};

absl::Status JsonError(const JsonEntry& entry, absl::string_view field, absl::string_view problem);
// The file is no JSON, or broken off; for errors that belong to no entry.
absl::Status JsonFileError(absl::string_view file, simdjson::error_code error);

// The file in memory, in the form that simdjson wants.
absl::StatusOr<simdjson::padded_string> LoadJson(const std::filesystem::path& path);

// Required fields. An integer may be written as 3.0; a number must be finite.
absl::StatusOr<int64_t> IntegerField(simdjson::ondemand::object& object, absl::string_view field,
                                     const JsonEntry& entry);
absl::StatusOr<double> NumberField(simdjson::ondemand::object& object, absl::string_view field,
                                   const JsonEntry& entry);
// [x, y, width, height] into out[4].
absl::Status BoxField(simdjson::ondemand::object& object, absl::string_view field,
                      const JsonEntry& entry, double* out);
// Optional fields: absent or null leaves *out alone.
absl::Status OptionalInteger(simdjson::ondemand::object& object, absl::string_view field,
                             const JsonEntry& entry, int64_t* out);
absl::Status OptionalString(simdjson::ondemand::object& object, absl::string_view field,
                            const JsonEntry& entry, std::string* out);
// true, false, or a number other than 0.
absl::Status OptionalFlag(simdjson::ondemand::object& object, absl::string_view field,
                          const JsonEntry& entry, bool* out);

}  // namespace muster::data
