// What the persistent kernels are built on, measured by itself: how long a hand-over between CTAs
// takes, how fast a warp's fragments multiply, which clusters fit. plan.h's Costs are to be these.
//
//   nvcc -std=c++20 -O3 -arch=sm_90 -Icsrc -I$TORCH/include bench/primitives.cu -o build/primitives
//   build/primitives
//
// where TORCH is the folder of the Python package torch.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/exchange.h"
#include "cuda/math.h"

using namespace fastrnn::cuda;

namespace {

constexpr int kRounds = 2000;
constexpr size_t kBuffer = 1 << 20;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Two CTAs of a cluster send each other a word in turns.
__global__ void __cluster_dims__(2) cluster_ping(int64_t* cycles) {
  __shared__ uint32_t word;
  __shared__ MessageBarrier barrier;
  const uint32_t rank = blockIdx.x % 2;
  if (threadIdx.x == 0) {
    barrier.init();
    barrier.expect(4);
  }
  cluster_barrier();
  const int64_t start = clock64();
  for (uint32_t i = 0; i < kRounds; ++i) {
    if (rank == i % 2) {
      if (threadIdx.x == 0) send(&word, i, &barrier, 1 - rank);
    } else {
      barrier.wait(i / 2 % 2);
      if (threadIdx.x == 0) barrier.expect(4);
    }
  }
  if (threadIdx.x == 0 && rank == 0) *cycles = clock64() - start;
  cluster_barrier();
}

__global__ void __cluster_dims__(2) cluster_barriers(int64_t* cycles) {
  cluster_barrier();
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) cluster_barrier();
  if (threadIdx.x == 0 && blockIdx.x == 0) *cycles = clock64() - start;
}

struct HandOverArgs {
  Geometry g;
  int row_words;
  uint32_t *operands, *flags;
  int64_t* cycles;
};

// A persistent kernel's steps without the work: wait for the operand, put the next one.
template <class Exchange>
__global__ void __launch_bounds__(kThreads, 1) hand_over(const __grid_constant__ HandOverArgs a) {
  const Geometry& g = a.g;
  char* const shared = dynamic_shared();
  const int rank = int(blockIdx.x) % g.ctas, own = a.row_words / g.ctas;
  auto* const words = reinterpret_cast<uint32_t*>(shared);
  for (int i = threadIdx.x; i < g.operand_slots * g.padded_rows() * g.stride; i += kThreads) {
    words[i] = 0;
  }
  auto* const barriers = reinterpret_cast<MessageBarrier*>(shared + g.barriers);
  const ExchangeSite site{g, words, barriers, a.operands, a.flags, rank, g.rows, a.row_words};
  Exchange exchange(site);
  exchange.start();
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) {
    const uint32_t* operand = exchange.wait(i);
    const uint32_t seen = operand[threadIdx.x % a.row_words];
    for (int k = threadIdx.x; k < g.rows * own; k += kThreads) {
      if (i + 1 < kRounds) exchange.put(i + 1, k / own, rank * own + k % own, seen + 1);
    }
    if (i + 1 < kRounds) exchange.commit(i + 1);
  }
  if (threadIdx.x == 0 && blockIdx.x == 0) *a.cycles = clock64() - start;
  exchange.finish();
}

// Eight warps multiply what they hold by an operand in shared memory, as a persistent kernel does.
template <class Math, int kTiles>
__global__ void __launch_bounds__(kThreads, 1)
    products(int rows, const uint32_t* weights, float* out, int64_t* cycles) {
  constexpr int kChunks = Math::kFragments / kTiles, kStride = (kChunks | 1) * kChunkWords;
  __shared__ __align__(16) uint32_t operand[8 * kStride];
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < 8 * kStride; i += kThreads) operand[i] = 0;
  WeightFragment w[kChunks][kTiles];
  for (auto& chunk : w) {
    for (auto& fragment : chunk) {
      for (auto& v : fragment.v) v = *weights++;  // the compiler must not see them to be equal
    }
  }
  __syncthreads();
  typename Math::Tile acc[kTiles] = {};
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      Math::multiply(acc, w[c], operand + c * kChunkWords, kStride, lane, rows);
    }
    __syncthreads();
  }
  const int64_t end = clock64();
  float sum = 0;
  for (auto& tile : acc) {
    float d[4];
    Math::finish(tile, d, lane);
    sum += d[0] + d[1] + d[2] + d[3];
  }
  out[threadIdx.x] = sum;
  if (threadIdx.x == 0) *cycles = end - start;
}

__global__ void large_kernel() {}

class Bench {
 public:
  Bench() {
    check(cudaGetDeviceProperties(&properties_, 0), "cudaGetDeviceProperties");
    check(cudaMalloc(&cycles_, 8), "cudaMalloc");
    check(cudaMalloc(&flags_, kBuffer), "cudaMalloc");
    check(cudaMalloc(&operands_, kBuffer), "cudaMalloc");
    check(cudaMemset(operands_, 0, kBuffer), "cudaMemset");
    check(cudaMalloc(&out_, 4096), "cudaMalloc");
  }
  ~Bench() {
    cudaFree(cycles_);
    cudaFree(flags_);
    cudaFree(operands_);
    cudaFree(out_);
  }

  void run() {
    std::printf("{\n \"device\": \"%s\",\n \"multiprocessors\": %d,\n", properties_.name,
                properties_.multiProcessorCount);
    std::vector<int> sizes;  // of the clusters that there are
    for (int size : {2, 4, 8, 16}) {
      if (clusters(size) > 0) sizes.push_back(size);
    }
    per_round("cluster, one hop", [&] { cluster_ping<<<2, 32>>>(cycles_); });
    per_round("cluster, barrier of 512 threads",
              [&] { cluster_barriers<<<2, kThreads>>>(cycles_); });
    for (int rows : {1, 8}) {
      hand_overs<LocalExchange>("one CTA", Exchange::kLocal, 1, 64, rows);
      for (int ctas : sizes) {
        hand_overs<ClusterExchange>("cluster", Exchange::kCluster, ctas, 32 * ctas, rows);
      }
      for (int ctas : {2, 8, 32, 64, 128}) {
        hand_overs<GridExchange>("grid", Exchange::kGrid, ctas, 8 * ctas, rows);
      }
    }
    math<BFloat16Math>("bfloat16");
    math<Tf32Math>("tf32");
    math<Float32Math>("float32");
    std::printf(" \"unit\": \"cycles\"\n}\n");
  }

 private:
  // Of hidden units in 16 bits, forward.
  template <class Kind>
  void hand_overs(const char* name, Exchange exchange, int ctas, int hidden_size, int rows) {
    if (ctas > properties_.multiProcessorCount) return;
    const Recurrence step{.gates = 4, .states = 2, .hidden_size = hidden_size, .element_size = 2};
    HandOverArgs args{.g = make_geometry(step, exchange, ctas, rows, 1, rows),
                      .operands = operands_,
                      .flags = flags_,
                      .cycles = cycles_};
    args.row_words = args.g.row_words(step);
    const auto kernel = reinterpret_cast<const void*>(hand_over<Kind>);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(properties_.sharedMemPerBlockOptin)),
          "cudaFuncSetAttribute");
    if (ctas == 16 && exchange == Exchange::kCluster) {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    }
    char text[96];
    std::snprintf(text, sizeof(text), "%s, hand-over between %d CTAs, H %d, %d rows", name, ctas,
                  hidden_size, rows);
    per_round(text, [&] {
      check(cudaMemset(flags_, 0, kBuffer), "cudaMemset");
      launch(kernel, ctas, args.g.shared_memory, exchange, &args);
    });
  }

  void launch(const void* kernel, int ctas, int shared, Exchange exchange, void* arguments) {
    cudaLaunchAttribute attribute;
    if (exchange == Exchange::kCluster) {
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {unsigned(ctas), 1, 1};
    } else {
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(ctas));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = size_t(shared);
    config.attrs = &attribute;
    config.numAttrs = 1;
    void* all[] = {arguments};
    check(cudaLaunchKernelExC(&config, kernel, all), "cudaLaunchKernelExC");
  }

  template <class Math>
  void math(const char* type) {
    for (int rows : {1, 8}) {
      char name[64];
      std::snprintf(name, sizeof(name), "%s, 4 tiles of all chunks by %d rows", type, rows);
      per_round(name, [&] { products<Math, 4><<<1, kThreads>>>(rows, operands_, out_, cycles_); });
    }
    char name[64];
    std::snprintf(name, sizeof(name), "%s, 1 tile of all chunks by 8 rows", type);
    per_round(name, [&] { products<Math, 1><<<1, kThreads>>>(8, operands_, out_, cycles_); });
  }

  // How many clusters of a size with all shared memory run at once, and whether cooperatively.
  int clusters(int size) {
    const int shared = int(properties_.sharedMemPerBlockOptin);
    const auto kernel = reinterpret_cast<const void*>(large_kernel);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "cudaFuncSetAttribute");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "cudaFuncSetAttribute");
    cudaLaunchAttribute attributes[2];
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {unsigned(size), 1, 1};
    attributes[1].id = cudaLaunchAttributeCooperative;
    attributes[1].val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(size));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = size_t(shared);
    config.attrs = attributes;
    config.numAttrs = 1;
    int count = 0;
    if (cudaOccupancyMaxActiveClusters(&count, kernel, &config) != cudaSuccess) count = 0;
    config.numAttrs = 2;
    const bool cooperative = cudaLaunchKernelExC(&config, kernel, nullptr) == cudaSuccess &&
                             cudaDeviceSynchronize() == cudaSuccess;
    cudaGetLastError();
    std::printf(" \"clusters of %d at once\": %d,\n", size, count);
    std::printf(" \"clusters of %d, cooperative\": %s,\n", size, cooperative ? "true" : "false");
    return count;
  }

  // The median of five launches, in cycles a round.
  template <class Launch>
  void per_round(const char* name, Launch launch) {
    std::vector<double> found;
    for (int i = 0; i < 5; ++i) {
      launch();
      check(cudaGetLastError(), name);
      check(cudaDeviceSynchronize(), name);
      int64_t cycles = 0;
      check(cudaMemcpy(&cycles, cycles_, 8, cudaMemcpyDeviceToHost), "cudaMemcpy");
      found.push_back(double(cycles) / kRounds);
    }
    std::sort(found.begin(), found.end());
    std::printf(" \"%s\": %.1f,\n", name, found[2]);
  }

  cudaDeviceProp properties_;
  int64_t* cycles_ = nullptr;
  uint32_t *flags_ = nullptr, *operands_ = nullptr;
  float* out_ = nullptr;
};

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // so that a hang does not take what was found with it
  Bench().run();
}
