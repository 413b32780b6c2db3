// CUDA on the CPU, for kernels of this project: each thread is a fiber, and which one goes on after
// a barrier, a poll or a message is drawn from a seed, so that a missing barrier shows. It reports
// deadlocks, and writes beyond a CTA's shared memory. It knows no caches and no weak memory order,
// and fibers switch only where they wait: what it proves is the kernels' logic.
#pragma once

#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../csrc/check.h"

#define FRNN_DEVICE inline
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace simulation {

struct Block;

struct Fiber {
  ucontext_t context;  // to begin with; jumps, which spare two system calls, go on from there
  jmp_buf position;
  bool started = false;
  Block* block = nullptr;
  unsigned thread = 0;
  bool done = false;
  uint64_t exchanged = 0;        // what it shows the other lanes of its warp
  const void* operands[3] = {};  // of a warp's instruction
};

// Fibers that wait for each other.
struct Barrier {
  size_t expected = 0;
  std::vector<Fiber*> waiting;
};

struct Message {
  Block* to;
  char* at;
  uint32_t value;
  const void* barrier;
  std::function<void(uint32_t phase)> arrives = [](uint32_t) {};
};

// A barrier that counts bytes; see MessageBarrier.
struct MessageState {
  int arrivals = 1;
  int64_t bytes = 0;
  uint32_t phase = 0;
};

struct Block {
  std::vector<Fiber*> ready;
  dim3 index;
  unsigned rank = 0;  // in its cluster
  std::vector<Block*> cluster;
  std::vector<char> shared;
  Barrier barrier;
  std::shared_ptr<Barrier> cluster_barrier;
  std::vector<Barrier> warps;
  std::map<const void*, MessageState> messages;
  std::vector<std::unique_ptr<Fiber>> fibers;
  size_t left = 0;
};

struct Machine {
  // Set by tests.
  uint64_t seed = 0;
  int64_t step_limit = 200'000'000;
  int resident = 132;  // blocks at a time
  int arch = 90;
  int shared_memory = 232448;
  bool refuse_cooperative = false;
  int refused = 0, persistent = 0;  // launches, counted
  int64_t streams = 0;              // so far
  int64_t stream = 0;               // the current one
  // Kernels as nvcc compiled them, by name, which run in the C++ ones' place; see ptx.h.
  std::map<std::string, void (*)(uint64_t)> compiled;

  int64_t launches = 0;
  // Of the launch that runs.
  std::string failure;  // of a thread
  dim3 grid, block;
  std::function<void()> kernel;
  std::mt19937_64 random;
  std::vector<Block*> running;
  std::deque<Message> messages;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<char[]>> stacks;
  Fiber* current = nullptr;
  jmp_buf scheduler;
};

inline Machine& machine() {
  static Machine m;
  return m;
}

inline constexpr size_t kStack = 64 * 1024, kGuard = 256;
inline constexpr char kPoison = char(0xff);  // as floats: NaN

inline Fiber& self() { return *machine().current; }
inline Block& block() { return *self().block; }

inline void switch_away() {
  if (!_setjmp(self().position)) _longjmp(machine().scheduler, 1);
}

inline void go_on(Fiber& fiber) {
  machine().current = &fiber;
  if (_setjmp(machine().scheduler)) return;
  if (fiber.started) _longjmp(fiber.position, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

// Lets others go on; the fiber itself stays ready.
inline void poll() {
  block().ready.push_back(machine().current);
  switch_away();
}

inline void arrive_and_wait(Barrier& barrier) {
  if (barrier.waiting.size() + 1 < barrier.expected) {
    barrier.waiting.push_back(machine().current);
    switch_away();
    return;
  }
  for (Fiber* fiber : barrier.waiting) fiber->block->ready.push_back(fiber);
  barrier.waiting.clear();
}

inline Barrier& warp() { return block().warps[self().thread / 32]; }

// Calls f(lanes) once for the whole warp, when all of it has come here.
template <class F>
void with_warp(F f) {
  Block& own = block();
  const unsigned first = self().thread / 32 * 32;
  Barrier& barrier = warp();
  if (barrier.waiting.size() + 1 == barrier.expected) {
    Fiber* lanes[32] = {};
    for (unsigned i = 0; i < barrier.expected; ++i) lanes[i] = own.fibers[first + i].get();
    f(lanes);
  }
  arrive_and_wait(barrier);
}

inline void complete(MessageState& state) {
  if (state.arrivals == 0 && state.bytes == 0) {
    state.arrivals = 1;
    ++state.phase;
  }
}

inline void deliver(size_t i) {
  auto& messages = machine().messages;
  std::swap(messages[i], messages.back());
  const Message m = messages.back();
  messages.pop_back();
  if (m.to->left == 0) throw std::runtime_error("a message to a block that has ended");
  memcpy(m.at, &m.value, 4);
  MessageState& state = m.to->messages.at(m.barrier);
  m.arrives(state.phase);
  state.bytes -= 4;
  complete(state);
}

inline void fiber_main() {
  machine().kernel();
  self().done = true;
  switch_away();
}

// Starts the blocks of one cluster.
inline void start(const std::vector<dim3>& indices, int shared_memory) {
  Machine& m = machine();
  std::vector<Block*> cluster;
  auto cluster_barrier = std::make_shared<Barrier>();
  const unsigned threads = m.block.x;
  cluster_barrier->expected = indices.size() * threads;
  for (const dim3& index : indices) {
    m.blocks.push_back(std::make_unique<Block>());
    Block& b = *m.blocks.back();
    b.index = index;
    b.rank = unsigned(cluster.size());
    b.shared.assign(size_t(shared_memory) + 128 + kGuard, kPoison);
    b.barrier.expected = threads;
    b.cluster_barrier = cluster_barrier;
    b.warps.resize((threads + 31) / 32);
    for (size_t w = 0; w < b.warps.size(); ++w) {
      b.warps[w].expected = std::min<size_t>(32, threads - 32 * w);
    }
    b.left = threads;
    for (unsigned t = 0; t < threads; ++t) {
      b.fibers.push_back(std::make_unique<Fiber>());
      Fiber& f = *b.fibers.back();
      f.block = &b;
      f.thread = t;
      if (m.stacks.empty()) m.stacks.emplace_back(new char[kStack]);
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = m.stacks.back().release();
      m.stacks.pop_back();
      f.context.uc_stack.ss_size = kStack;
      f.context.uc_link = nullptr;
      makecontext(&f.context, fiber_main, 0);
      b.ready.push_back(&f);
    }
    cluster.push_back(&b);
  }
  for (Block* b : cluster) b->cluster = cluster;
  m.running.insert(m.running.end(), cluster.begin(), cluster.end());
}

inline char* shared_of(Block& b) {
  const auto address = reinterpret_cast<uintptr_t>(b.shared.data());
  return b.shared.data() + (128 - address % 128) % 128;
}

inline void end(Block& b, int shared_memory) {
  const char* behind = shared_of(b) + shared_memory;
  for (size_t i = 0; i < kGuard / 2; ++i) {
    if (behind[i] != kPoison) throw std::runtime_error("a write beyond the shared memory");
  }
  for (auto& f : b.fibers) {
    machine().stacks.emplace_back(static_cast<char*>(f->context.uc_stack.ss_sp));
  }
}

// One of the items, which it takes out.
inline Fiber* take_any(std::vector<Fiber*>& from) {
  std::swap(from[machine().random() % from.size()], from.back());
  Fiber* taken = from.back();
  from.pop_back();
  return taken;
}

// Which block goes on: for long the same one, so that blocks run far ahead of each other; null
// where no thread can.
inline Block* next_block(Block* favorite) {
  Machine& m = machine();
  if (favorite && !favorite->ready.empty() && m.random() % 4096) return favorite;
  const size_t count = m.running.size(), first = count ? m.random() % count : 0;
  for (size_t i = 0; i < count; ++i) {
    Block* block = m.running[(first + i) % count];
    if (!block->ready.empty()) return block;
  }
  return nullptr;
}

inline void run(dim3 grid, dim3 threads, int shared_memory, int cluster,
                std::function<void()> kernel) {
  Machine& m = machine();
  m.grid = grid, m.block = threads, m.kernel = std::move(kernel);
  m.random.seed(m.seed);
  m.failure.clear();
  ++m.launches;
  std::vector<std::vector<dim3>> waiting;  // clusters, the first at the back
  for (unsigned y = grid.y; y-- > 0;) {
    for (unsigned x = grid.x; x > 0; x -= cluster) {
      std::vector<dim3> indices;
      for (unsigned i = x - cluster; i < x; ++i) indices.push_back({i, y, 0});
      waiting.push_back(indices);
    }
  }
  m.running.clear();
  Block* favorite = nullptr;
  int64_t steps = 0;
  while (!waiting.empty() || !m.running.empty()) {
    while (!waiting.empty() && int(m.running.size()) + cluster <= std::max(m.resident, cluster)) {
      start(waiting.back(), shared_memory);
      waiting.pop_back();
    }
    favorite = next_block(favorite);
    // Messages take their time, all the more the longer one block runs on.
    while (!m.messages.empty() && (!favorite || m.random() % 4 == 0)) {
      deliver(m.random() % m.messages.size());
      if (!favorite) favorite = next_block(nullptr);
    }
    if (!favorite || ++steps > m.step_limit || !m.failure.empty()) {
      m.messages.clear();
      m.blocks.clear();  // the fibers' stacks are lost, which a failed test may
      throw std::runtime_error(!m.failure.empty() ? m.failure
                               : favorite         ? "no end within the step limit"
                                                  : "deadlock: all threads wait");
    }
    Fiber& fiber = *take_any(favorite->ready);
    go_on(fiber);
    if (!fiber.done || --fiber.block->left > 0) continue;
    end(*fiber.block, shared_memory);
    // Its memory stays until the launch ends, for peers that still send to it.
    std::erase(m.running, fiber.block);
    favorite = nullptr;
  }
  if (!m.messages.empty()) throw std::runtime_error("messages to a block that has ended");
  m.blocks.clear();
  if (!m.failure.empty()) throw std::runtime_error(m.failure);
}

}  // namespace simulation

#define threadIdx (dim3{simulation::self().thread, 0, 0})
#define blockIdx (simulation::block().index)
#define blockDim (simulation::machine().block)
#define gridDim (simulation::machine().grid)

inline void __syncthreads() { simulation::arrive_and_wait(simulation::block().barrier); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) == 4);
  memcpy(&simulation::self().exchanged, &value, 4);
  T result;
  simulation::self().operands[0] = &result;
  const unsigned other = unsigned(mask);
  simulation::with_warp([=](simulation::Fiber* const(&lanes)[32]) {
    for (unsigned i = 0; i < 32; ++i) {
      memcpy(const_cast<void*>(lanes[i]->operands[0]), &lanes[i ^ other]->exchanged, 4);
    }
  });
  return result;
}

namespace fastrnn::cuda {

inline constexpr int kArch = 10000;

inline char* dynamic_shared() { return simulation::shared_of(simulation::block()); }

inline int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

// ---- tensor cores ------------------------------------------------------------------------------

// D += A B, of words that hold 1 or 2 elements; element(word, which) is one.
template <int kPerWord, class Element>
void simulated_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Element element) {
  simulation::Fiber& self = simulation::self();
  self.operands[0] = d, self.operands[1] = a, self.operands[2] = b;
  simulation::with_warp([&](simulation::Fiber* const(&lanes)[32]) {
    constexpr int kDepth = 8 * kPerWord;
    float left[16][kDepth], right[8][kDepth];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const auto* a = static_cast<const uint32_t*>(lanes[lane]->operands[1]);
      const auto* b = static_cast<const uint32_t*>(lanes[lane]->operands[2]);
      for (int e = 0; e < kPerWord; ++e) {
        const int low = t * kPerWord + e, high = low + 4 * kPerWord;
        left[g][low] = element(a[0], e), left[g + 8][low] = element(a[1], e);
        left[g][high] = element(a[2], e), left[g + 8][high] = element(a[3], e);
        right[g][low] = element(b[0], e), right[g][high] = element(b[1], e);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      auto* d = static_cast<float*>(const_cast<void*>(lanes[lane]->operands[0]));
      for (int i = 0; i < 4; ++i) {
        float sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += left[g + i / 2 * 8][k] * right[2 * t + i % 2][k];
        d[i] += sum;
      }
    }
  });
}

template <class T>
float half_of(uint32_t word, int which) {
  T pair[2];
  memcpy(pair, &word, 4);
  return float(pair[which]);
}

inline void mma_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simulated_mma<2>(d, a, b, half_of<torch::headeronly::Half>);
}
inline void mma_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simulated_mma<2>(d, a, b, half_of<torch::headeronly::BFloat16>);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simulated_mma<1>(d, a, b, [](uint32_t word, int) {
    if (word & 0x1fff) throw std::runtime_error("an operand is not rounded to TF32");
    float value;
    memcpy(&value, &word, 4);
    return value;
  });
}

// To 10 bits of mantissa, halves away from zero.
inline float round_to_tf32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000) != 0x7f800000) bits += 0x1000;
  bits &= ~0x1fffu;
  memcpy(&x, &bits, 4);
  return x;
}

// As far off as CUDA's may be, up or down.
inline float off_by(int places, float y) {
  uint32_t bits;
  memcpy(&bits, &y, 4);
  if (y == 0 || std::isinf(y)) return y;
  bits += bits * 0x9e3779b9u >> 31 ? places : -places;
  memcpy(&y, &bits, 4);
  return y;
}
inline float approximate_exp2(float x) { return off_by(2, std::exp2(x)); }
inline float approximate_reciprocal(float x) { return off_by(1, 1 / x); }

inline void trap() { throw std::runtime_error("trap"); }

// ---- flags, clusters ---------------------------------------------------------------------------

inline void set_flag(uint32_t* flag, uint32_t value) { *flag = value; }
inline uint32_t read_flag(const uint32_t* flag) {
  simulation::poll();
  return *flag;
}
inline uint4 load_fresh(const uint4* p) { return *p; }

inline void cluster_barrier() { simulation::arrive_and_wait(*simulation::block().cluster_barrier); }

struct MessageBarrier {
  uint64_t memory;

  void init() { simulation::block().messages[this] = {}; }
  void expect(uint32_t bytes) {
    auto& state = simulation::block().messages.at(this);
    --state.arrivals;
    state.bytes += bytes;
    simulation::complete(state);
  }
  void wait(uint32_t parity) {
    const auto& state = simulation::block().messages.at(this);
    while (state.phase % 2 == parity) simulation::poll();
  }
};

inline void send(uint32_t* to, uint32_t value, MessageBarrier* barrier, uint32_t rank) {
  simulation::Block& from = simulation::block();
  simulation::Block& target = *from.cluster.at(rank);
  char* const own = simulation::shared_of(from);
  char* const theirs = simulation::shared_of(target);
  simulation::machine().messages.push_back({&target, theirs + (reinterpret_cast<char*>(to) - own),
                                            value,
                                            theirs + (reinterpret_cast<char*>(barrier) - own)});
}

// ---- the host's side ---------------------------------------------------------------------------

// Null where all run as C++.
inline auto compiled(const void* kernel) -> void (*)(uint64_t) {
  const auto& all = simulation::machine().compiled;
  if (all.empty()) return nullptr;
  Dl_info info;
  const bool named = dladdr(kernel, &info) && info.dli_saddr == kernel;
  const auto found = named ? all.find(info.dli_sname) : all.end();
  if (found == all.end()) throw std::runtime_error("a kernel that nvcc did not compile");
  return found->second;
}

template <class Args>
using Kernel = void (*)(Args);
struct LaunchShape;
struct Limits;
using Stream = int64_t;

// Each call has a stream of its own.
class CurrentDevice {
 public:
  explicit CurrentDevice(int) { simulation::machine().stream = ++simulation::machine().streams; }
  ~CurrentDevice() { simulation::machine().stream = 0; }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  Stream stream() const { return simulation::machine().stream; }
};

template <class Args, class Shape>
[[nodiscard]] bool try_launch_simulated(Kernel<Args> kernel, const Shape& shape, Stream stream,
                                        const Args& args) {
  simulation::Machine& m = simulation::machine();
  if (stream != m.stream) throw std::runtime_error("a launch on another stream than the current");
  if (shape.cooperative && (m.refuse_cooperative || shape.blocks * shape.directions > m.resident)) {
    ++m.refused;
    return false;
  }
  if (shape.shared_memory > m.shared_memory) throw std::runtime_error("too much shared memory");
  if (shape.threads == 256) ++m.persistent;
  simulation::run({unsigned(shape.blocks), unsigned(shape.directions), 1},
                  {unsigned(shape.threads), 1, 1}, shape.shared_memory, shape.cluster,
                  [=, nvcc_made = compiled(reinterpret_cast<const void*>(kernel))] {
                    if (nvcc_made) {
                      nvcc_made(reinterpret_cast<uintptr_t>(&args));
                    } else {
                      kernel(args);
                    }
                  });
  return true;
}

}  // namespace fastrnn::cuda
