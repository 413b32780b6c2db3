// Kernel launches, checked; and what the planner must know of a device.
#pragma once

#include <cstdint>

#include "../check.h"
#include "platform.h"

#ifndef FRNN_CUDA_SIMULATION
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace fastrnn::cuda {

// Every kernel takes one struct.
template <class Args>
using Kernel = void (*)(Args);

struct LaunchShape {
  int64_t blocks = 1;  // along x
  int directions = 1;  // along y
  int threads = 1;
  int shared_memory = 0;
  int cluster = 1;  // CTAs of a cluster, along x
  bool cooperative = false;
};

// What the planner must know of a device.
struct Limits {
  int arch = 0;  // 90 for compute capability 9.0
  int multiprocessors = 0;
  int shared_memory = 0;  // of one CTA, in bytes
  int max_cluster = 1;
  bool cooperative = false;
};

#ifdef FRNN_CUDA_SIMULATION

template <class Args>
[[nodiscard]] bool try_launch(Kernel<Args> kernel, const LaunchShape& shape, Stream,
                              const Args& args) {
  return try_launch_simulated(kernel, shape, args);
}

inline Limits limits_of(int) {
  const auto& m = simulation::machine();
  return {m.arch, m.resident, m.shared_memory, m.arch >= 90 ? 8 : 1, true};
}

#else

// Not STD_CUDA_CHECK, whose message begins with the source's path.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  FRNN_CHECK(error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction,
             "fastrnn was not built for this GPU's compute capability: build it with ",
             "TORCH_CUDA_ARCH_LIST naming it");
  fail("CUDA error in ", what, ": ", cudaGetErrorString(error));
}

using Stream = cudaStream_t;

// The device of a call made current, and torch's stream there.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index) : guard_(index) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    stream_ = static_cast<Stream>(stream);
  }
  Stream stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  Stream stream_;
};

// Whether it was launched: a cooperative launch may be refused for want of room.
template <class Args>
[[nodiscard]] bool try_launch(Kernel<Args> kernel, const LaunchShape& shape, Stream stream,
                              const Args& args) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_memory > 48 * 1024) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shape.shared_memory),
          "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attributes[2];
  int count = 0;
  if (shape.cluster > 1) {
    if (shape.cluster > 8) {
      check(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
            "cudaFuncSetAttribute");
    }
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {unsigned(shape.cluster), 1, 1};
  }
  if (shape.cooperative) {
    attributes[count].id = cudaLaunchAttributeCooperative;
    attributes[count++].val.cooperative = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(shape.blocks), unsigned(shape.directions));
  config.blockDim = dim3(unsigned(shape.threads));
  config.dynamicSmemBytes = size_t(shape.shared_memory);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = unsigned(count);
  void* arguments[] = {const_cast<Args*>(&args)};
  const cudaError_t error = cudaLaunchKernelExC(&config, function, arguments);
  if (shape.cooperative && error == cudaErrorCooperativeLaunchTooLarge) {
    cudaGetLastError();
    return false;
  }
  check(error, "a kernel launch");
  return true;
}

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

inline Limits limits_of(int device) {
  Limits limits;
  limits.arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                attribute(cudaDevAttrComputeCapabilityMinor, device);
  limits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  limits.shared_memory = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  limits.max_cluster = limits.arch >= 90 ? 8 : 1;
  limits.cooperative = attribute(cudaDevAttrCooperativeLaunch, device);
  return limits;
}

#endif

template <class Args>
void launch(Kernel<Args> kernel, const LaunchShape& shape, Stream stream, const Args& args) {
  FRNN_CHECK(try_launch(kernel, shape, stream, args), "a kernel launch was refused");
}

}  // namespace fastrnn::cuda
