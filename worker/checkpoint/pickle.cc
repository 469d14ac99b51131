#include "worker/checkpoint/pickle.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "worker/checkpoint/torch_names.h"

namespace muster::checkpoint {
namespace {

void AppendLittleEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

class Pickler {
 public:
  explicit Pickler(const SaveStorage& save_storage) : save_storage_(save_storage) {}

  absl::StatusOr<std::string> Run(const Value& value) {
    out_ = "\x80\x02";
    MUSTER_RETURN_IF_ERROR(Write(value));
    out_ += '.';
    return std::move(out_);
  }

 private:
  absl::Status Write(const Value& value) {
    switch (value.kind()) {
      case Value::Kind::kNone:
        out_ += 'N';
        break;
      case Value::Kind::kBool:
        out_ += *value.boolean() ? '\x88' : '\x89';
        break;
      case Value::Kind::kInteger:
        WriteInteger(*value.integer());
        break;
      case Value::Kind::kReal:
        WriteReal(*value.real());
        break;
      case Value::Kind::kText:
        WriteText(*value.text());
        break;
      case Value::Kind::kList:
        return WriteItems("](", value, 'e');
      case Value::Kind::kTuple:
        return WriteItems("(", value, 't');
      case Value::Kind::kOrderedDict:
        return WriteItems("ccollections\nOrderedDict\n)R(", value, 'u');
      case Value::Kind::kDict:
        return WriteItems("}(", value, 'u');
      case Value::Kind::kTensor:
        WriteTensor(*value.tensor());
        break;
      case Value::Kind::kOpaque:
      case Value::Kind::kStorage:
        return absl::InvalidArgumentError("an object whose class is not known cannot be written");
    }
    return absl::OkStatus();
  }

  absl::Status WriteItems(absl::string_view begin, const Value& value, char end) {
    absl::StrAppend(&out_, begin);
    for (const Value& item : *value.items()) MUSTER_RETURN_IF_ERROR(Write(item));
    out_ += end;
    return absl::OkStatus();
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

  void WriteText(absl::string_view text) {
    out_ += 'X';
    AppendLittleEndian(text.size(), 4, &out_);
    absl::StrAppend(&out_, text);
  }

  void WriteTensor(const Tensor& tensor) {
    out_ += "ctorch._utils\n_rebuild_tensor_v2\n((";
    WriteText("storage");
    absl::StrAppend(&out_, "ctorch\n", StorageClassOf(tensor.storage->type), "\n");
    WriteText(save_storage_(tensor));
    WriteText("cpu");
    WriteInteger(tensor.storage->elements);
    out_ += "tQK";
    out_.push_back('\0');  // offset
    out_ += '(';
    for (const int64_t size : tensor.shape) WriteInteger(size);
    out_ += "t(";
    for (const int64_t stride : tensor.strides) WriteInteger(stride);
    out_ += "t\x89";  // requires_grad
    out_ += "ccollections\nOrderedDict\n)RtR";
  }

  const SaveStorage& save_storage_;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> Pickle(const Value& value, const SaveStorage& save_storage) {
  return Pickler(save_storage).Run(value);
}

}  // namespace muster::checkpoint
