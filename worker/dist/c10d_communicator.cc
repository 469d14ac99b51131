#include "worker/dist/c10d_communicator.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/clock.h"

namespace muster::dist {
namespace {

// `bytes` as an uint8 tensor of length `length`, the rest zero.
at::Tensor ToTensor(const std::string& bytes, int64_t length, at::Device device) {
  at::Tensor tensor = at::zeros({length}, at::kByte);
  std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor.to(device);
}

}  // namespace

C10dCommunicator::C10dCommunicator(std::string name, c10::intrusive_ptr<c10d::Backend> backend,
                                   at::Device device)
    : name_(std::move(name)), backend_(std::move(backend)), device_(device) {}

void C10dCommunicator::CheckTensor(const char* what, const at::Tensor& tensor) const {
  TORCH_CHECK(tensor.device() == device_ && tensor.is_contiguous(), what, " in group ", name_,
              ": wants a contiguous tensor on ", device_, ", got one on ", tensor.device());
}

template <typename Start>
void C10dCommunicator::Run(const char* what, const at::Tensor& tensor, Start start) {
  ++collectives_;
  const absl::Duration begin = base::MonotonicNow();
  try {
    start()->wait();
  } catch (...) {
    RethrowAsCollectiveLost(absl::StrCat(what, " of ", tensor.nbytes(), " bytes in group ", name_,
                                         " (rank ", rank(), " of ", size(), ")"));
  }
  waited_ += base::MonotonicNow() - begin;
}

at::Tensor C10dCommunicator::AllGather(const at::Tensor& local) {
  CheckTensor("all-gather", local);
  std::vector<int64_t> shape = {size()};
  shape.insert(shape.end(), local.sizes().begin(), local.sizes().end());
  at::Tensor gathered = at::empty(shape, local.options());
  if (local.numel() == 0) return gathered;
  at::Tensor output = gathered.view({-1});
  at::Tensor input = local.view({-1});
  Run("all-gather", local, [&] { return backend_->all_gather_single(output, input); });
  return gathered;
}

void C10dCommunicator::AllReduceSum(const at::Tensor& tensor) {
  CheckTensor("all-reduce", tensor);
  std::vector<at::Tensor> tensors = {tensor};
  Run("all-reduce", tensor, [&] { return backend_->allreduce(tensors); });
}

void C10dCommunicator::Broadcast(const at::Tensor& tensor, int root) {
  CheckTensor("broadcast", tensor);
  if (tensor.numel() == 0) return;
  std::vector<at::Tensor> tensors = {tensor};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  Run("broadcast", tensor, [&] { return backend_->broadcast(tensors, options); });
}

void C10dCommunicator::Barrier() {
  at::Tensor token = at::zeros({1}, at::TensorOptions(device_));
  AllReduceSum(token);
  // On CUDA the collective is only queued: reading the result waits for it.
  token.item();
}

std::vector<std::string> C10dCommunicator::AllGatherBytes(const std::string& local) {
  const at::Tensor lengths =
      AllGather(at::full({1}, static_cast<int64_t>(local.size()), at::kLong).to(device_)).cpu();
  const at::Tensor padded =
      AllGather(ToTensor(local, lengths.max().item<int64_t>(), device_)).cpu();
  std::vector<std::string> all;
  for (int peer = 0; peer < size(); ++peer) {
    all.emplace_back(static_cast<const char*>(padded[peer].const_data_ptr()),
                     lengths[peer].item<int64_t>());
  }
  return all;
}

std::string C10dCommunicator::BroadcastBytes(const std::string& bytes, int root) {
  const at::Tensor length =
      at::full({1}, static_cast<int64_t>(bytes.size()), at::kLong).to(device_);
  Broadcast(length, root);
  const int64_t size_at_root = length.item<int64_t>();
  at::Tensor data = rank() == root
                        ? ToTensor(bytes, size_at_root, device_)
                        : at::zeros({size_at_root}, at::TensorOptions(device_).dtype(at::kByte));
  Broadcast(data, root);
  data = data.cpu();
  return std::string(static_cast<const char*>(data.const_data_ptr()), size_at_root);
}

}  // namespace muster::dist
