#include "worker/train/pickle.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muster::train {

Value Value::Bool(bool value) {
  Value result;
  result.kind_ = Kind::kBool;
  result.data_ = value;
  return result;
}

Value Value::Integer(int64_t value) {
  Value result;
  result.kind_ = Kind::kInteger;
  result.data_ = value;
  return result;
}

Value Value::Real(double value) {
  Value result;
  result.kind_ = Kind::kReal;
  result.data_ = value;
  return result;
}

Value Value::Text(std::string value) {
  Value result;
  result.kind_ = Kind::kText;
  result.data_ = std::make_shared<const std::string>(std::move(value));
  return result;
}

Value Value::Tensor(at::Tensor value) {
  Value result;
  result.kind_ = Kind::kTensor;
  result.data_ = std::move(value);
  return result;
}

Value Value::List(std::vector<Value> items) {
  Value result;
  result.kind_ = Kind::kList;
  result.data_ = std::make_shared<Container>(Container{.items = std::move(items)});
  return result;
}

Value Value::Tuple(std::vector<Value> items) {
  Value result = List(std::move(items));
  result.kind_ = Kind::kTuple;
  return result;
}

Value Value::Dict() {
  Value result = List({});
  result.kind_ = Kind::kDict;
  return result;
}

Value Value::OrderedDict() {
  Value result = List({});
  result.kind_ = Kind::kOrderedDict;
  return result;
}

std::optional<bool> Value::boolean() const {
  if (kind_ != Kind::kBool) return std::nullopt;
  return std::get<bool>(data_);
}

std::optional<int64_t> Value::integer() const {
  if (kind_ != Kind::kInteger) return std::nullopt;
  return std::get<int64_t>(data_);
}

std::optional<double> Value::real() const {
  if (kind_ == Kind::kInteger) return static_cast<double>(std::get<int64_t>(data_));
  if (kind_ != Kind::kReal) return std::nullopt;
  return std::get<double>(data_);
}

const std::string* Value::text() const {
  return kind_ == Kind::kText ? std::get<TextPointer>(data_).get() : nullptr;
}

const at::Tensor* Value::tensor() const {
  return kind_ == Kind::kTensor ? &std::get<at::Tensor>(data_) : nullptr;
}

const std::vector<Value>* Value::items() const {
  const auto* container = std::get_if<std::shared_ptr<Container>>(&data_);
  return container == nullptr ? nullptr : &(*container)->items;
}

const Value* Value::Find(absl::string_view key) const {
  if (!is_dict()) return nullptr;
  const std::vector<Value>& entries = *items();
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    const std::string* name = entries[i].text();
    if (name != nullptr && *name == key) return &entries[i + 1];
  }
  return nullptr;
}

const Value* Value::Find(int64_t key) const {
  if (!is_dict()) return nullptr;
  const std::vector<Value>& entries = *items();
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    if (entries[i].integer() == key) return &entries[i + 1];
  }
  return nullptr;
}

void Value::Set(Value key, Value value) {
  auto& entries = std::get<std::shared_ptr<Container>>(data_)->items;
  entries.push_back(std::move(key));
  entries.push_back(std::move(value));
}

void Value::Set(absl::string_view key, Value value) {
  Set(Text(std::string(key)), std::move(value));
}

void Value::Append(Value value) {
  std::get<std::shared_ptr<Container>>(data_)->items.push_back(std::move(value));
}

namespace {

struct StorageClass {
  const char* name;
  at::ScalarType type;
};

constexpr StorageClass kStorageClasses[] = {
    {"FloatStorage", at::kFloat},       {"DoubleStorage", at::kDouble}, {"HalfStorage", at::kHalf},
    {"BFloat16Storage", at::kBFloat16}, {"LongStorage", at::kLong},     {"IntStorage", at::kInt},
    {"ShortStorage", at::kShort},       {"CharStorage", at::kChar},     {"ByteStorage", at::kByte},
    {"BoolStorage", at::kBool},
};

void AppendLittleEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

class Pickler {
 public:
  explicit Pickler(const SaveStorage& save_storage) : save_storage_(save_storage) {}

  std::string Run(const Value& value) {
    out_ = "\x80\x02";
    Write(value);
    out_ += '.';
    return std::move(out_);
  }

 private:
  void Write(const Value& value) {
    switch (value.kind()) {
      case Value::Kind::kNone:
        out_ += 'N';
        return;
      case Value::Kind::kBool:
        out_ += *value.boolean() ? '\x88' : '\x89';
        return;
      case Value::Kind::kInteger:
        WriteInteger(*value.integer());
        return;
      case Value::Kind::kReal:
        WriteReal(*value.real());
        return;
      case Value::Kind::kText:
        WriteText(*value.text());
        return;
      case Value::Kind::kList:
        out_ += "](";
        for (const Value& item : *value.items()) Write(item);
        out_ += 'e';
        return;
      case Value::Kind::kTuple:
        out_ += '(';
        for (const Value& item : *value.items()) Write(item);
        out_ += 't';
        return;
      case Value::Kind::kOrderedDict:
        out_ += "ccollections\nOrderedDict\n)R(";
        for (const Value& item : *value.items()) Write(item);
        out_ += 'u';
        return;
      case Value::Kind::kDict:
        out_ += "}(";
        for (const Value& item : *value.items()) Write(item);
        out_ += 'u';
        return;
      case Value::Kind::kTensor:
        WriteTensor(*value.tensor());
        return;
      case Value::Kind::kSkipped:
      case Value::Kind::kGlobal:
      case Value::Kind::kStorage:
        TORCH_CHECK(false, "this value cannot be pickled");
    }
  }

  void WriteInteger(int64_t value) {
    if (value >= 0 && value < 256) {
      out_ += 'K';
      AppendLittleEndian(static_cast<uint64_t>(value), 1, &out_);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
      out_ += 'J';
      AppendLittleEndian(static_cast<uint64_t>(value), 4, &out_);
    } else {
      out_ += "\x8a\x08";
      AppendLittleEndian(static_cast<uint64_t>(value), 8, &out_);
    }
  }

  void WriteReal(double value) {
    out_ += 'G';
    const auto bits = std::bit_cast<uint64_t>(value);
    for (int shift = 56; shift >= 0; shift -= 8) out_.push_back(static_cast<char>(bits >> shift));
  }

  void WriteText(const std::string& text) {
    out_ += 'X';
    AppendLittleEndian(text.size(), 4, &out_);
    out_ += text;
  }

  void WriteTensor(const at::Tensor& given) {
    const at::Tensor tensor = given.detach().cpu().contiguous();
    const auto* storage_class =
        std::find_if(std::begin(kStorageClasses), std::end(kStorageClasses),
                     [&](const StorageClass& c) { return c.type == tensor.scalar_type(); });
    TORCH_CHECK(storage_class != std::end(kStorageClasses), "a tensor of type ",
                tensor.scalar_type(), " cannot be pickled");
    out_ += "ctorch._utils\n_rebuild_tensor_v2\n((";
    WriteText("storage");
    absl::StrAppend(&out_, "ctorch\n", storage_class->name, "\n");
    WriteText(save_storage_(tensor));
    WriteText("cpu");
    WriteInteger(tensor.numel());
    out_ += "tQK";
    out_.push_back('\0');  // offset
    out_ += '(';
    for (const int64_t size : tensor.sizes()) WriteInteger(size);
    out_ += "t(";
    for (const int64_t stride : tensor.strides()) WriteInteger(stride);
    out_ += "t\x89";  // requires_grad
    out_ += "ccollections\nOrderedDict\n)RtR";
  }

  const SaveStorage& save_storage_;
  std::string out_;
};

}  // namespace

std::string Pickle(const Value& value, const SaveStorage& save_storage) {
  return Pickler(save_storage).Run(value);
}

std::optional<at::ScalarType> StorageType(absl::string_view global) {
  for (const StorageClass& storage_class : kStorageClasses) {
    if (global == absl::StrCat("torch.", storage_class.name)) return storage_class.type;
  }
  return std::nullopt;
}

}  // namespace muster::train
