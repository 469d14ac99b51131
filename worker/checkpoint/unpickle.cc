#include <bit>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "worker/checkpoint/pickle.h"
#include "worker/checkpoint/torch_names.h"
#include "worker/checkpoint/value_builder.h"

namespace muster::checkpoint {
namespace {

using Kind = Value::Kind;

// A checkpoint of the largest models takes some hundred thousand; each may cost two hundred bytes.
constexpr int64_t kMaxInstructions = int64_t{1} << 20;
// An OrderedDict that is made of pairs, as Python 2 did, copies them.
constexpr int64_t kMaxCopies = int64_t{1} << 16;
constexpr size_t kMaxClassName = 500;

// Python's pickle machine: a stack, marks in it, and a memo of values that are mentioned again.
class Unpickler {
 public:
  Unpickler(absl::string_view bytes, const LoadStorage& load_storage)
      : bytes_(bytes), load_storage_(load_storage) {}

  absl::StatusOr<Value> Run() {
    for (int64_t i = 0; i < kMaxInstructions; ++i) {
      MUSTER_ASSIGN_OR_RETURN(const absl::string_view opcode, Take(1));
      if (opcode[0] == '.') return Finish();
      MUSTER_RETURN_IF_ERROR(Execute(static_cast<uint8_t>(opcode[0])));
    }
    return BrokenPickle("it is too long for a checkpoint's");
  }

  size_t consumed() const { return position_; }

 private:
  absl::StatusOr<Value> Finish() {
    if (stack_.size() != 1 || !marks_.empty()) {
      return BrokenPickle("it ends in the middle of a value");
    }
    if (stack_.back().kind() == Kind::kOpaque) return RefuseClass(stack_.back());
    return std::move(stack_.back());
  }

  // Input.

  absl::StatusOr<absl::string_view> Take(uint64_t size) {
    if (size > bytes_.size() - position_) return BrokenPickle("it ends too early");
    const absl::string_view result = bytes_.substr(position_, size);
    position_ += size;
    return result;
  }

  absl::StatusOr<uint64_t> TakeInteger(int bytes) {
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view raw, Take(static_cast<uint64_t>(bytes)));
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; --i) {
      value = (value << 8) | static_cast<uint8_t>(raw[static_cast<size_t>(i)]);
    }
    return value;
  }

  absl::StatusOr<std::string> TakeLine() {
    const size_t end = bytes_.find('\n', position_);
    if (end == absl::string_view::npos) return BrokenPickle("a name has no end");
    std::string line(bytes_.substr(position_, end - position_));
    position_ = end + 1;
    return line;
  }

  // The stack.

  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }

  absl::Status Push(absl::StatusOr<Value> value) {
    if (!value.ok()) return value.status();
    stack_.push_back(*std::move(value));
    return absl::OkStatus();
  }

  absl::StatusOr<Value> Pop() {
    if (stack_.size() <= Floor()) return BrokenPickle("a value is missing");
    Value value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }

  absl::StatusOr<std::vector<Value>> PopToMark() {
    if (marks_.empty()) return BrokenPickle("a mark is missing");
    const auto begin = stack_.begin() + static_cast<ptrdiff_t>(marks_.back());
    std::vector<Value> items(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  absl::StatusOr<std::vector<Value>> PopCount(int count) {
    std::vector<Value> items(static_cast<size_t>(count));
    for (size_t i = items.size(); i-- > 0;) {
      MUSTER_ASSIGN_OR_RETURN(items[i], Pop());
    }
    return items;
  }

  // Instructions.

  absl::Status PushText(int length_bytes) {
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, TakeInteger(length_bytes));
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view text, Take(size));
    return Push(Value::Text(std::string(text)));
  }

  absl::Status PushLong(int length_bytes) {
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, TakeInteger(length_bytes));
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view raw, Take(size));
    // Wider numbers occur only as the magic number of old files, which is compared as bytes.
    if (size > 8) return Push(Value::Text(std::string(raw)));
    uint64_t value = size > 0 && (static_cast<uint8_t>(raw.back()) & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = size; i-- > 0;) value = (value << 8) | static_cast<uint8_t>(raw[i]);
    return Push(Value::Integer(static_cast<int64_t>(value)));
  }

  absl::Status PushReal() {
    MUSTER_ASSIGN_OR_RETURN(const absl::string_view raw, Take(8));
    uint64_t bits = 0;
    for (const char c : raw) bits = (bits << 8) | static_cast<uint8_t>(c);
    return Push(Value::Real(std::bit_cast<double>(bits)));
  }

  absl::Status PushTuple(absl::StatusOr<std::vector<Value>> items) {
    if (!items.ok()) return items.status();
    return Push(ValueBuilder::Tuple(*std::move(items)));
  }

  absl::Status PushNamed(const std::string& module, const std::string& name) {
    if (module.size() + name.size() > kMaxClassName) {
      return BrokenPickle("a class has too long a name");
    }
    return Push(ValueBuilder::Opaque(absl::StrCat(module, ".", name)));
  }

  absl::Status PushClass() {
    MUSTER_ASSIGN_OR_RETURN(const std::string module, TakeLine());
    MUSTER_ASSIGN_OR_RETURN(const std::string name, TakeLine());
    return PushNamed(module, name);
  }

  absl::Status PushClassOfStack() {
    MUSTER_ASSIGN_OR_RETURN(const std::vector<Value> names, PopCount(2));
    if (names[0].text() == nullptr || names[1].text() == nullptr) {
      return BrokenPickle("a class has no name");
    }
    return PushNamed(*names[0].text(), *names[1].text());
  }

  absl::Status AddItems(absl::StatusOr<std::vector<Value>> items, bool dict) {
    if (!items.ok()) return items.status();
    if (stack_.size() <= Floor()) return BrokenPickle("a value is missing");
    const Value& target = stack_.back();
    if (target.kind() == Kind::kOpaque) return absl::OkStatus();
    if (dict ? !target.is_dict() : target.kind() != Kind::kList) {
      return BrokenPickle("items are added to a value of another kind");
    }
    if (dict && items->size() % 2 != 0) return BrokenPickle("a key has no value");
    return ValueBuilder::Add(target, *std::move(items));
  }

  absl::Status Reduce(bool with_keywords) {
    if (with_keywords) MUSTER_RETURN_IF_ERROR(Pop().status());
    MUSTER_ASSIGN_OR_RETURN(const Value arguments, Pop());
    MUSTER_ASSIGN_OR_RETURN(const Value function, Pop());
    if (arguments.kind() != Kind::kTuple) return BrokenPickle("a call has no arguments");
    if (function.kind() != Kind::kOpaque) {
      return BrokenPickle("something that is no function is called");
    }
    return Push(Call(*function.opaque_class(), *arguments.items(), &copies_left_));
  }

  absl::Status SetState() {
    MUSTER_RETURN_IF_ERROR(Pop().status());
    if (stack_.size() <= Floor()) return BrokenPickle("a value is missing");
    // Attributes (a state_dict's _metadata) are not needed.
    const Kind kind = stack_.back().kind();
    if (kind == Kind::kOrderedDict || kind == Kind::kOpaque || kind == Kind::kTensor) {
      return absl::OkStatus();
    }
    return BrokenPickle("state is set on a value that has none");
  }

  absl::Status PushStorage() {
    MUSTER_ASSIGN_OR_RETURN(const Value id, Pop());
    return Push(OpenStorage(id, load_storage_));
  }

  absl::Status Remember(absl::StatusOr<uint64_t> key) {
    if (!key.ok()) return key.status();
    if (stack_.empty()) return BrokenPickle("a value is missing");
    memo_[*key] = stack_.back();
    return absl::OkStatus();
  }

  absl::Status Recall(absl::StatusOr<uint64_t> key) {
    if (!key.ok()) return key.status();
    const auto found = memo_.find(*key);
    if (found == memo_.end()) return BrokenPickle("it refers to a value that was not there");
    return Push(found->second);
  }

  absl::Status PushInteger(int bytes) {
    MUSTER_ASSIGN_OR_RETURN(const uint64_t raw, TakeInteger(bytes));
    return Push(Value::Integer(bytes == 4 ? int64_t{static_cast<int32_t>(raw)}
                                          : static_cast<int64_t>(raw)));
  }

  absl::Status CheckProtocol() {
    MUSTER_ASSIGN_OR_RETURN(const uint64_t protocol, TakeInteger(1));
    return protocol <= 5 ? absl::OkStatus() : BrokenPickle("its protocol is not known");
  }

  absl::Status PushMark() {
    marks_.push_back(stack_.size());
    return absl::OkStatus();
  }

  absl::Status Execute(uint8_t opcode);

  const absl::string_view bytes_;
  const LoadStorage& load_storage_;
  size_t position_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;
  std::map<uint64_t, Value> memo_;
  int64_t copies_left_ = kMaxCopies;
};

// The names are those of Python's pickletools.
absl::Status Unpickler::Execute(uint8_t opcode) {
  switch (opcode) {
    case 0x80:  // PROTO
      return CheckProtocol();
    case 0x95:  // FRAME
      return Take(8).status();
    case '(':  // MARK
      return PushMark();
    case '0':  // POP
      return Pop().status();
    case '1':  // POP_MARK
      return PopToMark().status();
    case 'N':  // NONE
      return Push(Value());
    case 0x88:  // NEWTRUE
      return Push(Value::Bool(true));
    case 0x89:  // NEWFALSE
      return Push(Value::Bool(false));
    case 'J':  // BININT
      return PushInteger(4);
    case 'K':  // BININT1
      return PushInteger(1);
    case 'M':  // BININT2
      return PushInteger(2);
    case 0x8a:  // LONG1
      return PushLong(1);
    case 0x8b:  // LONG4
      return PushLong(4);
    case 'G':  // BINFLOAT
      return PushReal();
    case 'X':  // BINUNICODE
    case 'T':  // BINSTRING
    case 'B':  // BINBYTES
      return PushText(4);
    case 0x8c:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING
    case 'C':   // SHORT_BINBYTES
      return PushText(1);
    case 0x8d:  // BINUNICODE8
    case 0x8e:  // BINBYTES8
    case 0x96:  // BYTEARRAY8
      return PushText(8);
    case ']':  // EMPTY_LIST
      return Push(Value::List({}));
    case '}':  // EMPTY_DICT
      return Push(Value::Dict());
    case 0x8f:  // EMPTY_SET
      return Push(ValueBuilder::Opaque("builtins.set"));
    case 0x91:  // FROZENSET
      MUSTER_RETURN_IF_ERROR(PopToMark().status());
      return Push(ValueBuilder::Opaque("builtins.frozenset"));
    case ')':  // EMPTY_TUPLE
      return Push(Value::Tuple({}));
    case 't':  // TUPLE
      return PushTuple(PopToMark());
    case 0x85:  // TUPLE1
    case 0x86:  // TUPLE2
    case 0x87:  // TUPLE3
      return PushTuple(PopCount(opcode - 0x84));
    case 'a':  // APPEND
      return AddItems(PopCount(1), false);
    case 's':  // SETITEM
      return AddItems(PopCount(2), true);
    case 'e':   // APPENDS
    case 0x90:  // ADDITEMS
      return AddItems(PopToMark(), false);
    case 'u':  // SETITEMS
      return AddItems(PopToMark(), true);
    case 'c':  // GLOBAL
      return PushClass();
    case 0x93:  // STACK_GLOBAL
      return PushClassOfStack();
    case 'R':   // REDUCE
    case 0x81:  // NEWOBJ
      return Reduce(/*with_keywords=*/false);
    case 0x92:  // NEWOBJ_EX
      return Reduce(/*with_keywords=*/true);
    case 'b':  // BUILD
      return SetState();
    case 'q':  // BINPUT
      return Remember(TakeInteger(1));
    case 'r':  // LONG_BINPUT
      return Remember(TakeInteger(4));
    case 0x94:  // MEMOIZE
      return Remember(memo_.size());
    case 'h':  // BINGET
      return Recall(TakeInteger(1));
    case 'j':  // LONG_BINGET
      return Recall(TakeInteger(4));
    case 'Q':  // BINPERSID
      return PushStorage();
    default:
      return BrokenPickle(absl::StrCat("instruction ", int{opcode}, " is not known"));
  }
}

}  // namespace

absl::Status RefuseClass(const Value& value) {
  return absl::InvalidArgumentError(absl::StrCat("the pickle holds an object of ",
                                                 absl::Utf8SafeCEscape(*value.opaque_class()),
                                                 "; only tensors and plain values are read"));
}

absl::StatusOr<Value> Unpickle(absl::string_view bytes, const LoadStorage& load_storage,
                               size_t* consumed) {
  Unpickler unpickler(bytes, load_storage);
  absl::StatusOr<Value> value = unpickler.Run();
  if (consumed != nullptr) *consumed = unpickler.consumed();
  return value;
}

}  // namespace muster::checkpoint
