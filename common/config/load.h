#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "muster/config/v1/train_job.pb.h"

namespace muster::config {

struct LoadOptions {
  // "field.path=value", applied in order after the file (ApplyOverride).
  std::vector<std::string> overrides;
};

// Reads a job's config: its bases in order, then the file, then the overrides. No defaults are
// filled, nothing is checked beyond the syntax, and `bases` is empty in the result.
//
// The extension decides how a file is read: .textproto and .pbtxt as protobuf text, .json as proto3
// JSON. A base is looked for below the nearest folder named "configs" above the file, then beside
// the file; a base may have no bases of its own.
//
// InvalidArgument names file, line and column of every syntax error and unknown field.
absl::StatusOr<v1::TrainJob> LoadTrainJob(const std::filesystem::path& path,
                                          const LoadOptions& options = {});

// Merges `from` into `*into`: scalars that are set and messages as MergeFrom does, but a repeated
// field that is set in `from` replaces, and so does a google.protobuf.Duration.
void Overlay(const google::protobuf::Message& from, google::protobuf::Message* into);

// Sets one field by its path. The value is written as in a textproto:
//   data.images_per_rank=4          schedule.step_epochs=[8, 11]        model.norm={type:
//   NORM_TYPE_BN}
// with three liberties: a string needs no quotes, an enum value may leave out its prefix
// (model.norm.type=BN), a duration may be written 90s. A message merges, a list replaces, an empty
// value clears the field. InvalidArgument names the assignment and what is wrong.
absl::Status ApplyOverride(absl::string_view assignment, v1::TrainJob* job);

}  // namespace muster::config
