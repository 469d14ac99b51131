#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "worker/checkpoint/pickle.h"
#include "worker/checkpoint/value.h"

// The few classes and functions of Python that a checkpoint's pickle may name, and what each makes.
namespace muster::checkpoint {

// "FloatStorage", the class in module torch.
absl::string_view StorageClassOf(ElementType type);
// Of "torch.FloatStorage"; nullopt for what is no storage's class.
std::optional<ElementType> StorageType(absl::string_view class_name);

// What function(*arguments) gives: an OrderedDict, a torch.Size (as a tuple), a tensor, or an
// opaque value for any other function. Takes the number of values that it copied off *copies_left,
// and fails below 0.
absl::StatusOr<Value> Call(const std::string& function, const std::vector<Value>& arguments,
                           int64_t* copies_left);

// What stands for the persistent id ('storage', class, key, device, elements[, view]).
absl::StatusOr<Value> OpenStorage(const Value& id, const LoadStorage& load_storage);

}  // namespace muster::checkpoint
