#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/checkpoint/value.h"

// PyTorch's checkpoint files, as torch.save writes them.
namespace muster::checkpoint {

// Reads a .pth: the zip container of PyTorch 1.6 and later, or the older plain one. The checksums
// of a container's records are verified. NotFound, or InvalidArgument that names the file and what
// is wrong. Classes are not looked up and nothing is called (see Unpickle): an object of any class
// is opaque, and an error only as the whole result.
absl::StatusOr<Value> ReadPth(const std::filesystem::path& path);

// The same from memory; `name` stands for the file in errors. The result does not refer to `bytes`.
absl::StatusOr<Value> ReadPthFrom(absl::string_view bytes, const std::string& name);

// Cheap look at a zip container: its directory is whole and has the pickle that ReadPth would read.
absl::Status CheckPth(const std::filesystem::path& path);

// The tensors of a state_dict, under their names without a leading "module.". InvalidArgument for
// an entry that is no tensor, with its name and class, and for a name that occurs twice. `name`
// stands for the file.
absl::StatusOr<NamedTensors> TensorsOf(const Value& state_dict, const std::string& name);

}  // namespace muster::checkpoint
