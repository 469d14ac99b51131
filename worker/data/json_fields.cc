#include "worker/data/json_fields.h"

#include <cerrno>
#include <cmath>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"

namespace muster::data {
namespace {

using simdjson::ondemand::json_type;
using simdjson::ondemand::object;
using simdjson::ondemand::value;

absl::Status NotANumber(const JsonEntry& entry, absl::string_view field) {
  return JsonError(entry, field, "not a finite number");
}

// Abseil's string_view is a type of its own in some builds of it.
std::string_view Key(absl::string_view field) { return {field.data(), field.size()}; }

// *out is left alone when the value is no finite number.
bool ReadNumber(value json, double* out) {
  simdjson::ondemand::number number;
  if (json.get_number().get(number) != simdjson::SUCCESS) return false;
  const double result = number.as_double();
  if (!std::isfinite(result)) return false;
  *out = result;
  return true;
}

bool ReadInteger(value json, int64_t* out) {
  simdjson::ondemand::number number;
  if (json.get_number().get(number) != simdjson::SUCCESS) return false;
  if (number.is_int64()) {
    *out = number.get_int64();
    return true;
  }
  const double real = number.as_double();
  // Beyond 2^53 a double does not say which integer was meant.
  if (!(std::abs(real) < 0x1p53) || real != std::floor(real)) return false;
  *out = static_cast<int64_t>(real);
  return true;
}

// False: absent or null.
absl::StatusOr<bool> FindOptional(object& parent, absl::string_view field, const JsonEntry& entry,
                                  value* out) {
  const simdjson::error_code error = parent.find_field_unordered(Key(field)).get(*out);
  if (error == simdjson::NO_SUCH_FIELD) return false;
  if (error != simdjson::SUCCESS) {
    return JsonError(entry, field, simdjson::error_message(error));
  }
  json_type type;
  if (out->type().get(type) != simdjson::SUCCESS) {
    return JsonError(entry, field, "not a JSON value");
  }
  return type != json_type::null;
}

absl::Status FindRequired(object& parent, absl::string_view field, const JsonEntry& entry,
                          value* out) {
  const simdjson::error_code error = parent.find_field_unordered(Key(field)).get(*out);
  if (error == simdjson::SUCCESS) return absl::OkStatus();
  if (error == simdjson::NO_SUCH_FIELD) return JsonError(entry, field, "missing");
  return JsonError(entry, field, simdjson::error_message(error));
}

}  // namespace

std::string JsonEntry::Name() const {
  std::string name = absl::StrCat(file, ": ", list, list.empty() ? "entry [" : "[", index, "]");
  if (id != -1) absl::StrAppend(&name, " (id ", id, ")");
  return name;
}

absl::Status JsonError(const JsonEntry& entry, absl::string_view field, absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat(entry.Name(), field.empty() ? "" : ", field ", field, ": ", problem));
}

absl::Status JsonFileError(absl::string_view file, simdjson::error_code error) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": not a valid JSON file: ", simdjson::error_message(error)));
}

absl::StatusOr<simdjson::padded_string> LoadJson(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(path.string(), ": no such file"));
  }
  if (!std::filesystem::is_regular_file(path, ignored)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a file"));
  }
  simdjson::padded_string text;
  errno = 0;
  if (const auto error = simdjson::padded_string::load(path.string()).get(text)) {
    if (errno != 0) return base::ErrnoStatus(errno, "cannot read", path);
    return JsonFileError(path.string(), error);
  }
  return text;
}

absl::StatusOr<int64_t> IntegerField(object& parent, absl::string_view field,
                                     const JsonEntry& entry) {
  value json;
  if (absl::Status status = FindRequired(parent, field, entry, &json); !status.ok()) return status;
  int64_t result = 0;
  if (!ReadInteger(json, &result)) return JsonError(entry, field, "not an integer");
  return result;
}

absl::StatusOr<double> NumberField(object& parent, absl::string_view field,
                                   const JsonEntry& entry) {
  value json;
  if (absl::Status status = FindRequired(parent, field, entry, &json); !status.ok()) return status;
  double result = 0;
  if (!ReadNumber(json, &result)) return NotANumber(entry, field);
  return result;
}

absl::Status BoxField(object& parent, absl::string_view field, const JsonEntry& entry,
                      double* out) {
  constexpr absl::string_view kProblem = "not 4 finite numbers [x, y, width, height]";
  value json;
  if (absl::Status status = FindRequired(parent, field, entry, &json); !status.ok()) return status;
  simdjson::ondemand::array array;
  if (json.get_array().get(array) != simdjson::SUCCESS) return JsonError(entry, field, kProblem);
  int count = 0;
  for (auto item : array) {
    value number;
    if (count == 4 || item.get(number) != simdjson::SUCCESS || !ReadNumber(number, &out[count])) {
      return JsonError(entry, field, kProblem);
    }
    ++count;
  }
  if (count != 4) return JsonError(entry, field, kProblem);
  return absl::OkStatus();
}

absl::Status OptionalInteger(object& parent, absl::string_view field, const JsonEntry& entry,
                             int64_t* out) {
  value json;
  const absl::StatusOr<bool> found = FindOptional(parent, field, entry, &json);
  if (!found.ok()) return found.status();
  if (*found && !ReadInteger(json, out)) return JsonError(entry, field, "not an integer");
  return absl::OkStatus();
}

absl::Status OptionalString(object& parent, absl::string_view field, const JsonEntry& entry,
                            std::string* out) {
  value json;
  const absl::StatusOr<bool> found = FindOptional(parent, field, entry, &json);
  if (!found.ok()) return found.status();
  if (!*found) return absl::OkStatus();
  std::string_view text;
  if (json.get_string().get(text) != simdjson::SUCCESS) {
    return JsonError(entry, field, "not a string");
  }
  *out = std::string(text);
  return absl::OkStatus();
}

absl::Status OptionalFlag(object& parent, absl::string_view field, const JsonEntry& entry,
                          bool* out) {
  value json;
  const absl::StatusOr<bool> found = FindOptional(parent, field, entry, &json);
  if (!found.ok()) return found.status();
  if (!*found) return absl::OkStatus();
  json_type type;
  if (json.type().get(type) == simdjson::SUCCESS && type == json_type::boolean) {
    if (json.get_bool().get(*out) != simdjson::SUCCESS) {
      return JsonError(entry, field, "not 0, 1, true or false");
    }
    return absl::OkStatus();
  }
  double number = 0;
  if (!ReadNumber(json, &number)) return JsonError(entry, field, "not 0, 1, true or false");
  *out = number != 0;
  return absl::OkStatus();
}

}  // namespace muster::data
