// Kernel launches, checked; and what the planner must know of a device.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>
#include <map>
#include <mutex>

#include "../check.h"
#include "args.h"
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
  int clusters[4] = {};   // of 2, 4, 8 and 16 CTAs: how many run at once
  bool cooperative = false;
};

#ifdef FRNN_CUDA_SIMULATION

template <class Args>
[[nodiscard]] bool try_launch(Kernel<Args> kernel, const LaunchShape& shape, Stream stream,
                              const Args& args) {
  return try_launch_simulated(kernel, shape, stream, args);
}

inline Limits limits_of(int, Kernel<PersistentArgs>) {
  const auto& m = simulation::machine();
  Limits limits{m.arch, m.resident, m.shared_memory, {}, true};
  for (int i = 0; i < 3 && m.arch >= 90; ++i) limits.clusters[i] = m.resident >> (i + 1);
  return limits;
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

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
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

// Whether it was launched: CTAs that must run side by side may be refused for want of room.
template <class Args>
[[nodiscard]] bool try_launch(Kernel<Args> kernel, const LaunchShape& shape, Stream stream,
                              const Args& args) {
  const void* function = reinterpret_cast<const void*>(kernel);
  FRNN_CHECK(shape.blocks <= INT32_MAX, "too many rows for one launch: ", shape.blocks);
  if (shape.shared_memory > 48 * 1024) {
    // All that there is, whatever this launch takes: the limit is the kernel's, and threads share
    // it.
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)),
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
  const bool refused = error == cudaErrorCooperativeLaunchTooLarge ||
                       error == cudaErrorInvalidClusterSize ||
                       error == cudaErrorLaunchOutOfResources;
  if (refused && (shape.cooperative || shape.cluster > 1)) {
    cudaGetLastError();
    return false;
  }
  check(error, "a kernel launch");
  return true;
}

inline Limits query_limits(int device, const void* cluster_kernel) {
  Limits limits;
  cudaFuncAttributes function{};
  check(cudaFuncGetAttributes(&function, cluster_kernel), "cudaFuncGetAttributes");
  // A kernel compiled from older PTX has not what the device has.
  limits.arch = std::min(10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                             attribute(cudaDevAttrComputeCapabilityMinor, device),
                         function.ptxVersion);
  limits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  limits.shared_memory = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  limits.cooperative = attribute(cudaDevAttrCooperativeLaunch, device);
  if (limits.arch < 90) return limits;
  check(cudaFuncSetAttribute(cluster_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             limits.shared_memory),
        "cudaFuncSetAttribute");
  for (int i = 0; i < 4; ++i) {
    const int size = 2 << i;
    cudaLaunchAttribute cluster;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {unsigned(size), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(size));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = size_t(limits.shared_memory);
    config.attrs = &cluster;
    config.numAttrs = 1;
    const bool known =
        (size <= 8 ||
         cudaFuncSetAttribute(cluster_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) ==
             cudaSuccess) &&
        cudaOccupancyMaxActiveClusters(&limits.clusters[i], cluster_kernel, &config) == cudaSuccess;
    if (!known) {  // no cluster of that size on this device
      limits.clusters[i] = 0;
      cudaGetLastError();
    }
  }
  return limits;
}

// Asked once for each device; the kernel is one that runs in clusters.
inline Limits limits_of(int device, Kernel<PersistentArgs> cluster_kernel) {
  static std::mutex mutex;
  static std::map<int, Limits> known;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(device);
  if (found == known.end()) {
    const auto function = reinterpret_cast<const void*>(cluster_kernel);
    found = known.emplace(device, query_limits(device, function)).first;
  }
  return found->second;
}

#endif

template <class Args>
void launch(Kernel<Args> kernel, const LaunchShape& shape, Stream stream, const Args& args) {
  FRNN_CHECK(try_launch(kernel, shape, stream, args), "a kernel launch was refused");
}

}  // namespace fastrnn::cuda
