// What the kernels are compiled for: CUDA, or a simulation of it on the CPU, which the tests bring.
#pragma once

#ifdef FRNN_CUDA_SIMULATION
#include "cuda_simulation.h"
#else
#include <cuda_runtime.h>

#include <cstdint>

#ifdef __CUDACC__
#define FRNN_DEVICE __device__ __forceinline__

namespace fastrnn::cuda {

// The architecture that this pass compiles for; the host's pass compiles all.
#ifdef __CUDA_ARCH__
inline constexpr int kArch = __CUDA_ARCH__;
#else
inline constexpr int kArch = 10000;
#endif

FRNN_DEVICE char* dynamic_shared() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

FRNN_DEVICE int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace fastrnn::cuda
#endif
#endif
