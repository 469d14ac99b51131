#include "worker/train/torch_tensors.h"

#include <memory>

namespace muster::train {
namespace {

struct TypePair {
  checkpoint::ElementType ours;
  at::ScalarType torchs;
};

using checkpoint::ElementType;

constexpr TypePair kTypes[] = {
    {ElementType::kFloat64, at::kDouble}, {ElementType::kFloat32, at::kFloat},
    {ElementType::kFloat16, at::kHalf},   {ElementType::kBFloat16, at::kBFloat16},
    {ElementType::kInt64, at::kLong},     {ElementType::kInt32, at::kInt},
    {ElementType::kInt16, at::kShort},    {ElementType::kInt8, at::kChar},
    {ElementType::kUInt8, at::kByte},     {ElementType::kBool, at::kBool},
};

at::ScalarType TorchType(ElementType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.ours == type) return pair.torchs;
  }
  TORCH_CHECK(false, "an element type that torch does not have");
}

}  // namespace

at::Tensor ToTorch(const checkpoint::Tensor& tensor) {
  const std::shared_ptr<const checkpoint::Storage> storage = tensor.storage;
  const at::TensorOptions options = at::TensorOptions().dtype(TorchType(storage->type));
  for (const int64_t side : tensor.shape) {
    if (side == 0) return at::empty(tensor.shape, options);
  }
  return at::from_blob(
             storage->data, {storage->elements}, [storage](void*) {}, options)
      .as_strided(tensor.shape, tensor.strides, tensor.offset);
}

NamedTensors ToTorch(const checkpoint::NamedTensors& tensors) {
  NamedTensors result;
  result.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) result.emplace_back(name, ToTorch(tensor));
  return result;
}

checkpoint::Tensor FromTorch(const at::Tensor& given) {
  const at::Tensor tensor = given.detach().cpu().contiguous();
  auto storage = std::make_shared<checkpoint::Storage>();
  bool known = false;
  for (const TypePair& pair : kTypes) {
    if (pair.torchs != tensor.scalar_type()) continue;
    storage->type = pair.ours;
    known = true;
  }
  TORCH_CHECK(known, "a tensor of type ", tensor.scalar_type(), " cannot be written");
  storage->elements = tensor.numel();
  storage->data = const_cast<char*>(static_cast<const char*>(tensor.const_data_ptr()));
  storage->owner = std::make_shared<at::Tensor>(tensor);
  return {.storage = storage, .shape = tensor.sizes().vec(), .strides = tensor.strides().vec()};
}

}  // namespace muster::train
