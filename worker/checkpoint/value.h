#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

// Checkpoints without LibTorch: what a file holds, as plain values and as views of memory. Reading
// them is where bytes of strangers enter, so it is built, sanitized and fuzzed by itself;
// worker/train makes at::Tensors of the result.
namespace muster::checkpoint {

enum class ElementType {
  kFloat64,
  kFloat32,
  kFloat16,
  kBFloat16,
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUInt8,
  kBool,
};

// In bytes.
int64_t SizeOf(ElementType type);

// A tensor's memory: little-endian elements, kept alive by `owner`.
struct Storage {
  ElementType type = ElementType::kFloat32;
  int64_t elements = 0;
  char* data = nullptr;
  std::shared_ptr<void> owner;

  int64_t bytes() const { return elements * SizeOf(type); }
};

// Memory of its own, aligned for any element type and vector instruction; its bytes are not set.
std::shared_ptr<Storage> NewStorage(ElementType type, int64_t elements);

// A view of a storage; offset and strides count elements. Of a tensor that was read, every element
// lies in the storage, and there are no more of them than the storage has.
struct Tensor {
  std::shared_ptr<const Storage> storage;
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

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
    kOpaque,   // a class, or an object of a class, that is not read: only its name is kept
    kStorage,  // a tensor's memory; only inside the reader
  };

  Value() = default;
  static Value Bool(bool value);
  static Value Integer(int64_t value);
  static Value Real(double value);
  static Value Text(std::string value);
  static Value OfTensor(Tensor value);
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
  const Tensor* tensor() const;
  // The name of an opaque value's class: "mmengine.logging.history_buffer.HistoryBuffer".
  const std::string* opaque_class() const;
  std::shared_ptr<const Storage> storage() const;
  // Of a list or tuple; of a dict: key, value, key, value, ...
  const std::vector<Value>* items() const;
  // Of a dict; null when the key is not there.
  const Value* Find(absl::string_view key) const;

  // Adds to a dict. The key must be new.
  void Set(Value key, Value value);
  void Set(absl::string_view key, Value value);

 private:
  friend class ValueBuilder;
  struct Container {
    std::vector<Value> items;
    // Set once it lies in another container: what changes later could make a cycle.
    bool sealed = false;
    int depth = 1;
  };
  // Shared, so that a pickle which mentions one often does not multiply it.
  using TextPointer = std::shared_ptr<const std::string>;
  using TensorPointer = std::shared_ptr<const Tensor>;

  Kind kind_ = Kind::kNone;
  std::variant<std::monostate, bool, int64_t, double, TextPointer, TensorPointer,
               std::shared_ptr<const Storage>, std::shared_ptr<Container>>
      data_;
};

}  // namespace muster::checkpoint
