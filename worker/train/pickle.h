#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace muster::train {

// What a checkpoint's pickle holds: plain values and tensors. Copies of a container share it.
class Value {
 public:
  enum class Kind {
    kNone,
    kBool,
    kInteger,
    kReal,
    kText,  // str and bytes
    kList,
    kTuple,
    kDict,
    kOrderedDict,
    kTensor,
    kSkipped,  // an object of a class that is known and not needed; nothing of it is kept
    kGlobal,   // a class or function by name; only inside the reader
    kStorage,  // a tensor's memory; only inside the reader
  };

  Value() = default;
  static Value Bool(bool value);
  static Value Integer(int64_t value);
  static Value Real(double value);
  static Value Text(std::string value);
  static Value Tensor(at::Tensor value);
  static Value List(std::vector<Value> items);
  static Value Tuple(std::vector<Value> items);
  static Value Dict();
  static Value OrderedDict();

  Kind kind() const { return kind_; }
  bool is_dict() const { return kind_ == Kind::kDict || kind_ == Kind::kOrderedDict; }
  // Null (nullopt) for a value of another kind. A bool is no integer; an integer is a real.
  std::optional<bool> boolean() const;
  std::optional<int64_t> integer() const;
  std::optional<double> real() const;
  const std::string* text() const;
  const at::Tensor* tensor() const;
  // Of a list or tuple; of a dict: key, value, key, value, ...
  const std::vector<Value>* items() const;
  // Of a dict; null when the key is not there.
  const Value* Find(absl::string_view key) const;
  const Value* Find(int64_t key) const;

  // Adds to a dict. The key must be new.
  void Set(Value key, Value value);
  void Set(absl::string_view key, Value value);
  // Adds to a list.
  void Append(Value value);

 private:
  friend class Unpickler;
  struct Container {
    std::vector<Value> items;
    // Set once it lies in another container: what changes later could make a cycle.
    bool sealed = false;
    int depth = 1;
  };

  Kind kind_ = Kind::kNone;
  // Text is shared, so that a pickle which mentions it often does not multiply it.
  using TextPointer = std::shared_ptr<const std::string>;
  std::variant<std::monostate, bool, int64_t, double, TextPointer, at::Tensor,
               std::shared_ptr<Container>>
      data_;
};

// A tensor's memory, as a pickle names it.
struct StorageReference {
  at::ScalarType type = at::kFloat;
  std::string key;
  int64_t elements = 0;
};

// Gives the storage as a tensor of one dimension. Called once for each mention.
using LoadStorage = std::function<absl::StatusOr<at::Tensor>(const StorageReference&)>;

// Reads one pickle (protocols 2 to 5) from the start of `bytes` and says in *consumed, if that is
// not null, how long it was. Nothing of what it names is called: OrderedDict, _rebuild_tensor_v2,
// _rebuild_parameter, torch's storages and plain values are understood, some classes of mmengine's
// and numpy's records are skipped, any other is refused by name. Any bytes give a value or
// InvalidArgument; memory stays within a small multiple of the input's size.
absl::StatusOr<Value> Unpickle(absl::string_view bytes, const LoadStorage& load_storage,
                               size_t* consumed = nullptr);

// Takes a contiguous tensor's memory, and returns the key that a reader will find it by.
using SaveStorage = std::function<std::string(const at::Tensor& tensor)>;

// A pickle of protocol 2 that Python's torch.load(weights_only=True) accepts.
std::string Pickle(const Value& value, const SaveStorage& save_storage);

}  // namespace muster::train
