#include <algorithm>
#include <bit>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "worker/train/pickle.h"

namespace muster::train {

// In pickle.cc, beside the table.
std::optional<at::ScalarType> StorageType(absl::string_view global);

namespace {

// A pickle nested deeper is no checkpoint; the bound keeps recursive destructors off the stack's
// end.
constexpr int kMaxDepth = 64;

// Records that mmengine and numpy leave in checkpoints beside the weights.
constexpr absl::string_view kSkippedGlobals[] = {
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.float64",
    "numpy.float32",
    "numpy.int64",
    "_codecs.encode",
    "mmengine.logging.history_buffer.HistoryBuffer.mean",
    "mmengine.logging.history_buffer.HistoryBuffer.max",
    "mmengine.logging.history_buffer.HistoryBuffer.min",
    "mmengine.logging.history_buffer.HistoryBuffer.current",
    "builtins.getattr",
};

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the pickle is damaged: ", what));
}

}  // namespace

class Unpickler {
 public:
  Unpickler(absl::string_view bytes, const LoadStorage& load_storage)
      : bytes_(bytes), load_storage_(load_storage) {}

  absl::StatusOr<Value> Run() {
    while (true) {
      MUSTER_ASSIGN_OR_RETURN(const absl::string_view opcode, Take(1));
      if (opcode[0] == '.') {
        if (stack_.size() != 1 || !marks_.empty())
          return Broken("it ends in the middle of a value");
        return std::move(stack_.back());
      }
      MUSTER_RETURN_IF_ERROR(Execute(static_cast<uint8_t>(opcode[0])));
    }
  }

  size_t consumed() const { return position_; }

 private:
  using Kind = Value::Kind;

  absl::StatusOr<absl::string_view> Take(uint64_t size) {
    if (size > bytes_.size() - position_) return Broken("it ends too early");
    const absl::string_view result = bytes_.substr(position_, size);
    position_ += size;
    return result;
  }

  absl::StatusOr<uint64_t> TakeInteger(int bytes) {
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view raw, Take(static_cast<uint64_t>(bytes)));
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; --i) value = (value << 8) | static_cast<uint8_t>(raw[i]);
    return value;
  }

  absl::StatusOr<std::string> TakeLine() {
    const size_t end = bytes_.find('\n', position_);
    if (end == absl::string_view::npos) return Broken("a name has no end");
    std::string line(bytes_.substr(position_, end - position_));
    position_ = end + 1;
    return line;
  }

  absl::Status Push(Value value) {
    stack_.push_back(std::move(value));
    return absl::OkStatus();
  }

  absl::StatusOr<Value> Pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return Broken("a value is missing");
    Value value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }

  absl::StatusOr<std::vector<Value>> PopToMark() {
    if (marks_.empty()) return Broken("a mark is missing");
    const auto begin = stack_.begin() + static_cast<ptrdiff_t>(marks_.back());
    std::vector<Value> items(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  absl::StatusOr<std::vector<Value>> PopCount(int count) {
    std::vector<Value> items(static_cast<size_t>(count));
    for (int i = count - 1; i >= 0; --i) {
      MUSTER_ASSIGN_OR_RETURN(items[static_cast<size_t>(i)], Pop());
    }
    return items;
  }

  static Value::Container* ContainerOf(const Value& value) {
    const auto* container = std::get_if<std::shared_ptr<Value::Container>>(&value.data_);
    return container == nullptr ? nullptr : container->get();
  }

  // Adds items to a list, tuple or dict.
  absl::Status Fill(const Value& target, std::vector<Value> items) {
    Value::Container* container = ContainerOf(target);
    if (container == nullptr || container->sealed) return Broken("a value that cannot grow grows");
    for (Value& item : items) {
      if (item.kind_ == Kind::kGlobal && !IsSkipped(item)) return Refuse(item);
      if (Value::Container* inner = ContainerOf(item); inner != nullptr) {
        if (inner == container) return Broken("a value contains itself");
        inner->sealed = true;
        container->depth = std::max(container->depth, inner->depth + 1);
        if (container->depth > kMaxDepth) return Broken("values are nested too deeply");
      }
      container->items.push_back(std::move(item));
    }
    return absl::OkStatus();
  }

  absl::Status AddItems(std::vector<Value> items, bool dict) {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return Broken("a value is missing");
    const Value target = stack_.back();
    if (target.kind_ == Kind::kSkipped) return absl::OkStatus();
    if (dict ? !target.is_dict() : target.kind_ != Kind::kList) {
      return Broken("items are added to a value of another kind");
    }
    if (dict && items.size() % 2 != 0) return Broken("a key has no value");
    return Fill(target, std::move(items));
  }

  absl::Status PushTuple(absl::StatusOr<std::vector<Value>> items) {
    if (!items.ok()) return items.status();
    Value tuple = Value::Tuple({});
    // A tuple of a storage's description may name a class.
    ContainerOf(tuple)->items.reserve(items->size());
    for (Value& item : *items) {
      if (Value::Container* inner = ContainerOf(item); inner != nullptr) {
        inner->sealed = true;
        const int depth = inner->depth + 1;
        if (depth > kMaxDepth) return Broken("values are nested too deeply");
        ContainerOf(tuple)->depth = std::max(ContainerOf(tuple)->depth, depth);
      }
      ContainerOf(tuple)->items.push_back(std::move(item));
    }
    return Push(std::move(tuple));
  }

  static absl::Status Refuse(const Value& global) {
    return absl::InvalidArgumentError(absl::StrCat("the pickle holds an object of ",
                                                   *std::get<Value::TextPointer>(global.data_),
                                                   "; only tensors and plain values are read"));
  }

  static bool IsSkipped(const Value& global) {
    const std::string& name = *std::get<Value::TextPointer>(global.data_);
    return std::find(std::begin(kSkippedGlobals), std::end(kSkippedGlobals), name) !=
           std::end(kSkippedGlobals);
  }

  static bool Names(const Value& value, absl::string_view name) {
    return value.kind_ == Kind::kGlobal && *std::get<Value::TextPointer>(value.data_) == name;
  }

  absl::Status PushGlobal(std::string name) {
    if (name == "__builtin__.getattr") name = "builtins.getattr";
    Value value;
    value.kind_ = Kind::kGlobal;
    value.data_ = std::make_shared<const std::string>(std::move(name));
    if (!IsSkipped(value) && !Names(value, "collections.OrderedDict") &&
        !Names(value, "torch.Size") && !Names(value, "torch._utils._rebuild_tensor_v2") &&
        !Names(value, "torch._utils._rebuild_parameter") &&
        !StorageType(*std::get<Value::TextPointer>(value.data_)).has_value()) {
      return Refuse(value);
    }
    return Push(std::move(value));
  }

  static Value Skipped() {
    Value value;
    value.kind_ = Kind::kSkipped;
    return value;
  }

  absl::Status Reduce() {
    MUSTER_ASSIGN_OR_RETURN(const Value arguments, Pop());
    MUSTER_ASSIGN_OR_RETURN(const Value function, Pop());
    if (arguments.kind_ != Kind::kTuple) return Broken("a call has no arguments");
    const std::vector<Value>& values = *arguments.items();
    if (function.kind_ == Kind::kSkipped) return Push(Skipped());
    if (function.kind_ != Kind::kGlobal) return Broken("something that is no function is called");
    if (IsSkipped(function)) return Push(Skipped());
    if (Names(function, "collections.OrderedDict")) return PushOrderedDict(values);
    if (Names(function, "torch.Size") && values.size() == 1 && values[0].kind_ == Kind::kTuple) {
      return Push(values[0]);
    }
    if (Names(function, "torch._utils._rebuild_tensor_v2")) return PushTensor(values);
    if (Names(function, "torch._utils._rebuild_parameter")) {
      if (values.empty() || values[0].tensor() == nullptr)
        return Broken("a parameter is no tensor");
      return Push(values[0]);
    }
    return Refuse(function);
  }

  absl::Status PushOrderedDict(const std::vector<Value>& arguments) {
    Value dict = Value::OrderedDict();
    if (!arguments.empty()) {
      if (arguments.size() != 1 || arguments[0].kind_ != Kind::kList) {
        return Broken("an OrderedDict of something other than pairs");
      }
      for (const Value& pair : *arguments[0].items()) {
        const std::vector<Value>* items = pair.items();
        if (items == nullptr || pair.is_dict() || items->size() != 2) {
          return Broken("an OrderedDict of something other than pairs");
        }
        MUSTER_RETURN_IF_ERROR(Fill(dict, *items));
      }
    }
    return Push(std::move(dict));
  }

  absl::Status PushTensor(const std::vector<Value>& arguments) {
    if (arguments.size() < 6 || arguments[0].kind_ != Kind::kStorage ||
        arguments[2].kind_ != Kind::kTuple || arguments[3].kind_ != Kind::kTuple ||
        !arguments[1].integer().has_value()) {
      return Broken("a tensor's description is not understood");
    }
    const at::Tensor& storage = std::get<at::Tensor>(arguments[0].data_);
    std::vector<int64_t> sizes;
    std::vector<int64_t> strides;
    for (const Value& size : *arguments[2].items()) sizes.push_back(size.integer().value_or(-1));
    for (const Value& stride : *arguments[3].items()) {
      strides.push_back(stride.integer().value_or(-1));
    }
    const int64_t offset = *arguments[1].integer();
    if (sizes.size() != strides.size() || sizes.size() > 16 || offset < 0) {
      return Broken("a tensor's description is not understood");
    }
    // The last element that the tensor reaches must lie in the storage.
    bool empty = false;
    __int128 last = offset;
    __int128 elements = 1;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] < 0 || strides[i] < 0) return Broken("a tensor has a negative size");
      if (sizes[i] == 0) empty = true;
      if (sizes[i] > 0) {
        last += static_cast<__int128>(sizes[i] - 1) * strides[i];
        elements *= sizes[i];
      }
      if (last > INT64_MAX || elements > INT64_MAX) return Broken("a tensor is too large");
    }
    // A stride of 0 would let a few bytes stand for a tensor of any size.
    if (!empty && (last >= storage.numel() || elements > storage.numel())) {
      return Broken("a tensor is larger than its storage");
    }
    if (empty) return Push(Value::Tensor(at::empty(sizes, storage.options())));
    return Push(Value::Tensor(storage.as_strided(sizes, strides, offset)));
  }

  absl::Status PushStorage() {
    MUSTER_ASSIGN_OR_RETURN(const Value id, Pop());
    const std::vector<Value>* fields = id.items();
    if (id.kind_ != Kind::kTuple || fields->size() < 5 || (*fields)[1].kind_ != Kind::kGlobal ||
        (*fields)[2].text() == nullptr || !(*fields)[4].integer().has_value()) {
      return Broken("a storage's description is not understood");
    }
    const auto type = StorageType(*std::get<Value::TextPointer>((*fields)[1].data_));
    if (!type.has_value()) return Refuse((*fields)[1]);
    const StorageReference reference{*type, *(*fields)[2].text(), *(*fields)[4].integer()};
    if (reference.elements < 0) return Broken("a storage has a negative size");
    MUSTER_ASSIGN_OR_RETURN(at::Tensor storage, load_storage_(reference));
    Value value;
    value.kind_ = Kind::kStorage;
    value.data_ = std::move(storage);
    return Push(std::move(value));
  }

  absl::Status Build() {
    MUSTER_ASSIGN_OR_RETURN(const Value state, Pop());
    if (stack_.empty()) return Broken("a value is missing");
    // An OrderedDict's attributes (a state_dict's _metadata) are not needed.
    const Kind kind = stack_.back().kind_;
    if (kind == Kind::kOrderedDict || kind == Kind::kSkipped) return absl::OkStatus();
    return Broken("state is set on a value that has none");
  }

  absl::Status Remember(uint64_t key) {
    if (stack_.empty()) return Broken("a value is missing");
    memo_[key] = stack_.back();
    return absl::OkStatus();
  }

  absl::Status Recall(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) return Broken("it refers to a value that was not there");
    return Push(found->second);
  }

  absl::Status PushText(int length_bytes) {
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, TakeInteger(length_bytes));
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view text, Take(size));
    return Push(Value::Text(std::string(text)));
  }

  absl::Status PushLong() {
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, TakeInteger(1));
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view raw, Take(size));
    // Wider numbers occur only as the magic number of old files, which is compared as bytes.
    if (size > 8) return Push(Value::Text(std::string(raw)));
    uint64_t value = size > 0 && (static_cast<uint8_t>(raw.back()) & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = size; i-- > 0;) value = (value << 8) | static_cast<uint8_t>(raw[i]);
    return Push(Value::Integer(static_cast<int64_t>(value)));
  }

  absl::Status Execute(uint8_t opcode) {
    switch (opcode) {
      case 0x80: {
        MUSTER_ASSIGN_OR_RETURN(const uint64_t protocol, TakeInteger(1));
        return protocol <= 5 ? absl::OkStatus() : Broken("its protocol is not known");
      }
      case 0x95:  // FRAME
        return Take(8).status();
      case '(':
        marks_.push_back(stack_.size());
        return absl::OkStatus();
      case '0':
        return Pop().status();
      case '1':
        return PopToMark().status();
      case 'N':
        return Push(Value());
      case 0x88:
        return Push(Value::Bool(true));
      case 0x89:
        return Push(Value::Bool(false));
      case 'J': {
        MUSTER_ASSIGN_OR_RETURN(const uint64_t raw, TakeInteger(4));
        return Push(Value::Integer(static_cast<int32_t>(raw)));
      }
      case 'K':
      case 'M': {
        MUSTER_ASSIGN_OR_RETURN(const uint64_t raw, TakeInteger(opcode == 'K' ? 1 : 2));
        return Push(Value::Integer(static_cast<int64_t>(raw)));
      }
      case 0x8a:
        return PushLong();
      case 'G': {
        MUSTER_ASSIGN_OR_RETURN(const absl::string_view raw, Take(8));
        uint64_t bits = 0;
        for (const char c : raw) bits = (bits << 8) | static_cast<uint8_t>(c);
        return Push(Value::Real(std::bit_cast<double>(bits)));
      }
      case 'X':
      case 'T':
      case 'B':
        return PushText(4);
      case 0x8c:
      case 'U':
      case 'C':
        return PushText(1);
      case 0x8d:
      case 0x8e:
        return PushText(8);
      case ']':
        return Push(Value::List({}));
      case '}':
        return Push(Value::Dict());
      case ')':
        return Push(Value::Tuple({}));
      case 't':
        return PushTuple(PopToMark());
      case 0x85:
      case 0x86:
      case 0x87:
        return PushTuple(PopCount(opcode - 0x84));
      case 'a': {
        MUSTER_ASSIGN_OR_RETURN(std::vector<Value> items, PopCount(1));
        return AddItems(std::move(items), false);
      }
      case 's': {
        MUSTER_ASSIGN_OR_RETURN(std::vector<Value> items, PopCount(2));
        return AddItems(std::move(items), true);
      }
      case 'e':
      case 'u': {
        MUSTER_ASSIGN_OR_RETURN(std::vector<Value> items, PopToMark());
        return AddItems(std::move(items), opcode == 'u');
      }
      case 'c': {
        MUSTER_ASSIGN_OR_RETURN(const std::string module, TakeLine());
        MUSTER_ASSIGN_OR_RETURN(const std::string name, TakeLine());
        return PushGlobal(absl::StrCat(module, ".", name));
      }
      case 0x93: {
        MUSTER_ASSIGN_OR_RETURN(const std::vector<Value> names, PopCount(2));
        if (names[0].text() == nullptr || names[1].text() == nullptr)
          return Broken("a class has no name");
        return PushGlobal(absl::StrCat(*names[0].text(), ".", *names[1].text()));
      }
      case 'R':
      case 0x81:
        return Reduce();
      case 'b':
        return Build();
      case 'q':
      case 'r': {
        MUSTER_ASSIGN_OR_RETURN(const uint64_t key, TakeInteger(opcode == 'q' ? 1 : 4));
        return Remember(key);
      }
      case 0x94:
        return Remember(memo_.size());
      case 'h':
      case 'j': {
        MUSTER_ASSIGN_OR_RETURN(const uint64_t key, TakeInteger(opcode == 'h' ? 1 : 4));
        return Recall(key);
      }
      case 'Q':
        return PushStorage();
      default:
        return Broken(absl::StrCat("instruction ", int{opcode}, " is not known"));
    }
  }

  const absl::string_view bytes_;
  const LoadStorage& load_storage_;
  size_t position_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;
  std::map<uint64_t, Value> memo_;
};

absl::StatusOr<Value> Unpickle(absl::string_view bytes, const LoadStorage& load_storage,
                               size_t* consumed) {
  Unpickler unpickler(bytes, load_storage);
  absl::StatusOr<Value> value = unpickler.Run();
  if (consumed != nullptr) *consumed = unpickler.consumed();
  return value;
}

}  // namespace muster::train
