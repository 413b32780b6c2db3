// The runtime of CUDA 13 on a machine without a GPU, loaded in place of the driver and before the
// real runtime: memory is the host's, kernels do nothing, and work on another device's stream,
// waits and other streams in a capture, and launches beyond the device are refused. It shows what
// the host's side asks of CUDA. Built and used by fake_gpu.sh.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>

static_assert(CUDART_VERSION >= 13000, "other versions have other parameters");

namespace {

constexpr int kDevices = 2, kMultiprocessors = 132, kSharedMemory = 232448;

struct Stream {
  int device;
  bool capturing = false;
};

struct Kernel {
  std::string name;
  int shared_memory[kDevices] = {48 * 1024, 48 * 1024};
  int largest_cluster[kDevices] = {8, 8};
};

struct Memory {
  size_t size;
  int device;
};

// Set by tests.
bool no_kernel_image = false, refuse_cooperative = false;

std::recursive_mutex mutex;
std::map<const void*, Kernel> kernels;
std::map<const char*, Memory> memory;
int captures = 0;  // that go on
std::ostringstream launches;

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

#define LOCK const std::lock_guard<std::recursive_mutex> lock(mutex)

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// What would wait for the device, or change its memory, at once.
cudaError_t outside_captures() {
  LOCK;
  return report(captures ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

// Of work on a stream.
cudaError_t check_stream(cudaStream_t handle) {
  const auto* stream = reinterpret_cast<const Stream*>(handle);
  if (captures && !(stream && stream->capturing)) return cudaErrorStreamCaptureImplicit;
  if (stream && stream->device != current_device) return cudaErrorInvalidResourceHandle;
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  LOCK;
  if (const auto error = check_stream(stream)) return report(error);
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t check_launch(const cudaLaunchConfig_t& c, const Kernel& kernel, int cluster,
                         bool cooperative) {
  if (no_kernel_image) return cudaErrorNoKernelImageForDevice;
  if (const auto error = check_stream(c.stream)) return error;
  const dim3 grid = c.gridDim, block = c.blockDim;
  if (!grid.x || !grid.y || !grid.z || !block.x || block.x * block.y * block.z > 1024 ||
      grid.y > 65535 || grid.x % cluster) {
    return cudaErrorInvalidConfiguration;
  }
  if (c.dynamicSmemBytes > size_t(kernel.shared_memory[current_device])) {
    return cudaErrorInvalidValue;
  }
  if (cluster > kernel.largest_cluster[current_device]) return cudaErrorInvalidClusterSize;
  const bool too_many = int64_t(grid.x) * grid.y > kMultiprocessors;
  return cooperative && (too_many || refuse_cooperative) ? cudaErrorCooperativeLaunchTooLarge
                                                         : cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* function) {
  LOCK;
  const auto found = kernels.find(function);
  const Kernel kernel = found == kernels.end() ? Kernel{} : found->second;
  int cluster = 1;
  bool cooperative = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& a = config.attrs[i];
    if (a.id == cudaLaunchAttributeClusterDimension) cluster = int(a.val.clusterDim.x);
    if (a.id == cudaLaunchAttributeCooperative) cooperative = a.val.cooperative;
  }
  if (const auto error = check_launch(config, kernel, cluster, cooperative)) return report(error);
  if (kernel.name.find("fastrnn") != std::string::npos) {
    launches << kernel.name << ' ' << current_device << ' ' << uintptr_t(config.stream) << ' '
             << captures << ' ' << cluster << ' ' << cooperative << '\n';
  }
  return cudaSuccess;
}

double milliseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(now).count();
}

cudaError_t make_stream(cudaStream_t* stream) {
  *stream = reinterpret_cast<cudaStream_t>(new Stream{current_device});
  return cudaSuccess;
}

cudaError_t make_event(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new double(0));
  return cudaSuccess;
}

double& time_of(cudaEvent_t event) { return *reinterpret_cast<double*>(event); }

// Stands for a graph, an executable graph, a context.
template <class Handle>
cudaError_t make_handle(Handle* handle) {
  static char anything;
  *handle = reinterpret_cast<Handle>(&anything);
  return cudaSuccess;
}

}  // namespace

extern "C" {

// ---- for tests ---------------------------------------------------------------------------------

// Of fastrnn's kernels since the last call, a line each: kernel, device, stream, captures that went
// on, CTAs of a cluster, whether cooperative.
const char* fake_gpu_launches() {
  LOCK;
  static std::string lines;
  lines = launches.str();
  launches.str("");
  return lines.c_str();
}

void fake_gpu_refuse(bool all, bool cooperative) {
  no_kernel_image = all;
  refuse_cooperative = cooperative;
}

// ---- the driver --------------------------------------------------------------------------------

int cuGetProcAddress_v2(const char*, void** function, int, uint64_t, int* found) {
  *function = nullptr;
  if (found) *found = 1;
  return 500;  // not found
}
int cuDevicePrimaryCtxGetState(int, unsigned*, int* active) {
  *active = 1;
  return 0;
}

// ---- kernels -----------------------------------------------------------------------------------

void __cudaRegisterFunction(void** module, const char* function, char* device_name,
                            const char* name, int threads, uint3* thread, uint3* block,
                            dim3* block_size, dim3* grid_size, int* warp) {
  using Register = decltype(&__cudaRegisterFunction);
  static const auto real = reinterpret_cast<Register>(dlsym(RTLD_NEXT, "__cudaRegisterFunction"));
  {
    LOCK;
    kernels[function].name = name;
  }
  real(module, function, device_name, name, threads, thread, block, block_size, grid_size, warp);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**, size_t shared,
                             cudaStream_t stream) {
  return launch({grid, block, shared, stream, nullptr, 0}, function);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  return launch(*config, function);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->maxThreadsPerBlock = 1024;
  return report(no_kernel_image ? cudaErrorNoKernelImageForDevice : cudaSuccess);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute which, int value) {
  LOCK;
  Kernel& kernel = kernels[function];
  if (which == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > kSharedMemory) return report(cudaErrorInvalidValue);
    kernel.shared_memory[current_device] = value;
  } else if (which == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    kernel.largest_cluster[current_device] = value ? 16 : 8;
  }
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveClusters(int* count, const void*, const cudaLaunchConfig_t* c) {
  *count = kMultiprocessors / int(c->attrs[0].val.clusterDim.x);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* count, const void*, int,
                                                                   size_t, unsigned) {
  *count = 1;
  return cudaSuccess;
}

// ---- devices -----------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return report(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  static const std::map<cudaDeviceAttr, int> all = {
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrMultiProcessorCount, kMultiprocessors},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, kSharedMemory},
      {cudaDevAttrCooperativeLaunch, 1},
  };
  const auto found = all.find(which);
  *value = found == all.end() ? 0 : found->second;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "a fake GPU");
  properties->major = 9;
  properties->multiProcessorCount = kMultiprocessors;
  properties->totalGlobalMem = size_t(8) << 30;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerBlock = 48 * 1024;
  properties->sharedMemPerBlockOptin = kSharedMemory;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = reinterpret_cast<void*>(+[] { return 0; });
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return outside_captures(); }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- memory ------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** data, size_t bytes) {
  LOCK;
  *data = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  memory[static_cast<const char*>(*data)] = {bytes, current_device};
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  LOCK;
  memory.erase(static_cast<const char*>(data));
  std::free(data);
  return outside_captures();
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t(8) << 30;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  LOCK;
  *attributes = {};
  const auto* p = static_cast<const char*>(data);
  auto next = memory.upper_bound(p);
  if (next == memory.begin()) return cudaSuccess;
  const auto& [begin, found] = *--next;
  if (p >= begin + found.size) return cudaSuccess;
  attributes->type = cudaMemoryTypeDevice;
  attributes->device = found.device;
  attributes->devicePointer = const_cast<void*>(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (const auto error = outside_captures()) return error;
  return copy(to, from, bytes, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  LOCK;
  if (const auto error = check_stream(stream)) return report(error);
  std::memset(data, value, bytes);
  return cudaSuccess;
}

// ---- streams, events, graphs -------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return make_stream(stream);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return make_stream(stream);
}
cudaError_t cudaStreamQuery(cudaStream_t) { return outside_captures(); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return outside_captures(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  LOCK;
  const auto* stream = reinterpret_cast<const Stream*>(handle);
  const bool capturing = stream && stream->capturing;
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  if (id) *id = 1;
  if (graph) make_handle(graph);
  if (dependencies) *dependencies = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaStreamIsCapturing(stream, status);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  LOCK;
  reinterpret_cast<Stream*>(stream)->capturing = true;
  ++captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  LOCK;
  reinterpret_cast<Stream*>(stream)->capturing = false;
  --captures;
  return make_handle(graph);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* graph, cudaGraph_t, unsigned long long) {
  return make_handle(graph);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) {
  LOCK;
  return report(check_stream(stream));
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }

cudaError_t cudaEventCreate(cudaEvent_t* event) { return make_event(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return make_event(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  time_of(event) = milliseconds();
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventElapsedTime(float* elapsed, cudaEvent_t start, cudaEvent_t end) {
  *elapsed = float(time_of(end) - time_of(start));
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return outside_captures(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return outside_captures(); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &time_of(event);
  return cudaSuccess;
}

}  // extern "C"
