#include <cstdint>

#include "worker/ops/cuda_launchers.h"
#include "worker/ops/nms_arithmetic.h"

namespace muster::ops {
namespace {

// Bits of a mask word, and boxes of a block.
constexpr int kBits = 64;

// Block (w, b): boxes 64 b .. 64 b + 63 as rows, boxes 64 w .. 64 w + 63 as bits of word w.
template <typename T>
__global__ void MaskKernel(const T* boxes, int64_t count, T threshold, uint64_t* mask) {
  const int64_t words = gridDim.x;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kBits + threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBits;
  const int columns = static_cast<int>(count - first < kBits ? count - first : kBits);
  __shared__ T shared[kBits * 4];
  if (threadIdx.x < columns) {
    for (int k = 0; k < 4; ++k) {
      shared[threadIdx.x * 4 + k] = boxes[(first + threadIdx.x) * 4 + k];
    }
  }
  __syncthreads();
  if (row >= count) return;
  const NmsBox<T> box = MakeNmsBox(boxes + row * 4);
  uint64_t word = 0;
  for (int j = 0; j < columns; ++j) {
    if (first + j > row && Suppresses(box, MakeNmsBox(shared + j * 4), threshold)) {
      word |= uint64_t{1} << j;
    }
  }
  mask[row * words + blockIdx.x] = word;
}

template <typename T>
const char* Mask(const T* boxes, int64_t count, T threshold, uint64_t* mask, void* stream) {
  if (count == 0) return nullptr;
  const unsigned words = static_cast<unsigned>((count + kBits - 1) / kBits);
  MaskKernel<T><<<dim3(words, words), kBits, 0, static_cast<cudaStream_t>(stream)>>>(
      boxes, count, threshold, mask);
  return LaunchError();
}

}  // namespace

void FillNmsLaunchers(CudaKernels* kernels) {
  kernels->float32.nms_mask = Mask<float>;
  kernels->float64.nms_mask = Mask<double>;
}

}  // namespace muster::ops
