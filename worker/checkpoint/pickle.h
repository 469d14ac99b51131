#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/checkpoint/value.h"

namespace muster::checkpoint {

// A tensor's memory, as a pickle names it.
struct StorageReference {
  ElementType type = ElementType::kFloat32;
  std::string key;
  int64_t elements = 0;
};

// Gives the storage, of just this type and size. Called once for each mention.
using LoadStorage =
    std::function<absl::StatusOr<std::shared_ptr<const Storage>>(const StorageReference&)>;

// Reads one pickle (protocols 2 to 5) from the start of `bytes` and says in *consumed, if that is
// not null, how long it was. Nothing of what it names is called or looked up: OrderedDict, torch's
// tensors, parameters and storages and plain values are understood, and whatever is made by any
// other class or function becomes an opaque value that keeps the name alone. As the whole result
// that is an error; whoever looks for tensors refuses it by that name. Any bytes give a value or
// InvalidArgument; memory stays within a small multiple of the input's size.
absl::StatusOr<Value> Unpickle(absl::string_view bytes, const LoadStorage& load_storage,
                               size_t* consumed = nullptr);

// InvalidArgument: an object of the value's class stands where only tensors and plain values are
// read. `value` is opaque.
absl::Status RefuseClass(const Value& value);

// Takes a tensor and returns the key that a reader will find its memory by.
using SaveStorage = std::function<std::string(const Tensor& tensor)>;

// A pickle of protocol 2 that Python's torch.load(weights_only=True) accepts. Each tensor must
// fill its storage in order, from offset 0. InvalidArgument for an opaque value.
absl::StatusOr<std::string> Pickle(const Value& value, const SaveStorage& save_storage);

}  // namespace muster::checkpoint
