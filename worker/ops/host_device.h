#pragma once

// Marks arithmetic that the CPU loops and the CUDA kernels share.
#ifdef __CUDACC__
#define MUSTER_HOST_DEVICE __host__ __device__
#else
#define MUSTER_HOST_DEVICE
#endif
