#include "common/config/load.h"

#include <cstdint>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::config {
namespace {

using google::protobuf::Message;
using google::protobuf::TextFormat;

class ErrorList : public google::protobuf::io::ErrorCollector {
 public:
  explicit ErrorList(std::string name) : name_(std::move(name)) {}

  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    errors_.push_back(absl::StrCat(name_, ":", line + 1, ":", column + 1, ": ", message));
  }
  void AddWarning(int line, google::protobuf::io::ColumnNumber column,
                  const std::string& message) override {
    AddError(line, column, message);
  }

  absl::Status status() const {
    return absl::InvalidArgumentError(errors_.empty() ? absl::StrCat(name_, ": cannot be parsed")
                                                      : absl::StrJoin(errors_, "\n"));
  }
  bool empty() const { return errors_.empty(); }

 private:
  const std::string name_;
  std::vector<std::string> errors_;
};

absl::StatusOr<v1::TrainJob> ParseFile(const std::filesystem::path& path) {
  MUSTER_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
  v1::TrainJob job;
  const std::string extension = path.extension().string();
  if (extension == ".textproto" || extension == ".pbtxt") {
    ErrorList errors(path.string());
    TextFormat::Parser parser;
    parser.RecordErrorsTo(&errors);
    if (!parser.ParseFromString(text, &job) || !errors.empty()) return errors.status();
    return job;
  }
  if (extension == ".json") {
    const auto status = google::protobuf::util::JsonStringToMessage(text, &job);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path.string(), ": ", std::string(status.message())));
    }
    return job;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path.string(), ": unknown extension '", extension,
                   "'; a config is a .textproto, .pbtxt or .json file"));
}

absl::StatusOr<std::filesystem::path> FindBase(const std::filesystem::path& file,
                                               const std::string& base) {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::absolute(file, ignored).parent_path();
  std::vector<std::filesystem::path> tried;
  for (std::filesystem::path at = folder; at.has_relative_path(); at = at.parent_path()) {
    if (at.filename() == "configs") {
      tried.push_back(at / base);
      break;
    }
  }
  tried.push_back(folder / base);
  for (const std::filesystem::path& candidate : tried) {
    if (std::filesystem::is_regular_file(candidate, ignored)) return candidate;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file.string(), ": base \"", base, "\" not found; looked for ",
                   absl::StrJoin(tried, " and ", [](std::string* out, const auto& candidate) {
                     out->append(candidate.string());
                   })));
}

bool IsValue(const google::protobuf::Descriptor* type) {
  return type->full_name() == "google.protobuf.Duration";
}

std::string FieldNames(const google::protobuf::Descriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
  return absl::StrJoin(names, ", ");
}

// NormType -> NORM_TYPE_, as the enum's value names begin.
std::string EnumPrefix(const google::protobuf::EnumDescriptor* type) {
  const std::string& zero = type->value(0)->name();
  return zero.substr(0, zero.size() - std::string("UNSPECIFIED").size());
}

absl::StatusOr<std::string> EnumValueName(const google::protobuf::EnumDescriptor* type,
                                          const std::string& value) {
  const std::string prefix = EnumPrefix(type);
  for (const std::string& name : {value, prefix + absl::AsciiStrToUpper(value)}) {
    if (type->FindValueByName(name) != nullptr) return name;
  }
  std::vector<std::string> names;
  for (int i = 1; i < type->value_count(); ++i) {
    names.push_back(type->value(i)->name().substr(prefix.size()));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", value, "' is none of ", absl::StrJoin(names, ", ")));
}

absl::Status SetField(const google::protobuf::FieldDescriptor* field, const std::string& text,
                      Message* message) {
  const google::protobuf::Reflection* reflection = message->GetReflection();
  if (field->is_repeated() || text.empty()) reflection->ClearField(message, field);
  if (text.empty()) return absl::OkStatus();
  std::string value = text;
  if (!field->is_repeated()) {
    const bool quoted = text[0] == '"' || text[0] == '\'';
    if (field->type() == google::protobuf::FieldDescriptor::TYPE_STRING && !quoted) {
      reflection->SetString(message, field, text);
      return absl::OkStatus();
    }
    if (field->type() == google::protobuf::FieldDescriptor::TYPE_ENUM) {
      MUSTER_ASSIGN_OR_RETURN(value, EnumValueName(field->enum_type(), text));
    }
    if (field->message_type() != nullptr && IsValue(field->message_type())) {
      absl::Duration duration;
      if (absl::ParseDuration(text, &duration)) {
        const int64_t seconds = absl::IDivDuration(duration, absl::Seconds(1), &duration);
        value = absl::StrCat("{seconds: ", seconds, " nanos: ", absl::ToInt64Nanoseconds(duration),
                             "}");
      }
      reflection->ClearField(message, field);
    }
  }
  ErrorList errors("value");
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  const std::unique_ptr<Message> parsed(message->New());
  if (!parser.ParseFromString(absl::StrCat(field->name(), ": ", value), parsed.get()) ||
      !errors.empty()) {
    return errors.status();
  }
  Overlay(*parsed, message);
  return absl::OkStatus();
}

absl::Status SetPath(const std::string& path, const std::string& value, Message* message) {
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const google::protobuf::Descriptor* type = message->GetDescriptor();
    const google::protobuf::FieldDescriptor* field = type->FindFieldByName(names[i]);
    if (field == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("no field '", names[i], "' in ", type->name(),
                                                     ", which has ", FieldNames(type)));
    }
    if (i + 1 == names.size()) return SetField(field, value, message);
    if (field->message_type() == nullptr || field->is_repeated()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", names[i], "' has no fields of its own",
                       field->is_repeated() ? "; a list is set as a whole, [a, b]" : ""));
    }
    message = message->GetReflection()->MutableMessage(message, field);
  }
  return absl::OkStatus();
}

}  // namespace

void Overlay(const Message& from, Message* into) {
  const google::protobuf::Reflection* reflection = from.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(from, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->message_type() != nullptr && !field->is_repeated() &&
        !IsValue(field->message_type())) {
      Overlay(reflection->GetMessage(from, field),
              into->GetReflection()->MutableMessage(into, field));
      continue;
    }
    // A message that holds this field alone, so that MergeFrom copies it whatever its type.
    into->GetReflection()->ClearField(into, field);
    const std::unique_ptr<Message> single(from.New());
    single->CopyFrom(from);
    for (const google::protobuf::FieldDescriptor* other : fields) {
      if (other != field) single->GetReflection()->ClearField(single.get(), other);
    }
    into->MergeFrom(*single);
  }
}

absl::Status ApplyOverride(absl::string_view assignment, v1::TrainJob* job) {
  const size_t equals = assignment.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "override '", assignment, "': write field.path=value, e.g. data.images_per_rank=4"));
  }
  const std::string path(absl::StripAsciiWhitespace(assignment.substr(0, equals)));
  const std::string value(absl::StripAsciiWhitespace(assignment.substr(equals + 1)));
  const absl::Status status = path == "bases"
                                  ? absl::InvalidArgumentError("bases are read from files only")
                                  : SetPath(path, value, job);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("override '", assignment, "': ", status.message()));
}

absl::StatusOr<v1::TrainJob> LoadTrainJob(const std::filesystem::path& path,
                                          const LoadOptions& options) {
  MUSTER_ASSIGN_OR_RETURN(const v1::TrainJob file, ParseFile(path));
  v1::TrainJob job;
  for (const std::string& name : file.bases()) {
    MUSTER_ASSIGN_OR_RETURN(const std::filesystem::path base_path, FindBase(path, name));
    MUSTER_ASSIGN_OR_RETURN(const v1::TrainJob base, ParseFile(base_path));
    if (base.bases_size() > 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(base_path.string(), ": a base may have no bases of its own; list \"",
                       base.bases(0), "\" in ", path.string()));
    }
    Overlay(base, &job);
  }
  Overlay(file, &job);
  job.clear_bases();
  for (const std::string& assignment : options.overrides) {
    MUSTER_RETURN_IF_ERROR(ApplyOverride(assignment, &job));
  }
  return job;
}

}  // namespace muster::config
