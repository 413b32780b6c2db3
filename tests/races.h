// Finds data races of simulated threads: two accesses to the same memory, one of them a write, with
// nothing between that orders them. What orders is PTX's causality order: barriers of a warp, a CTA
// and a cluster; a flag that is stored behind a fence and loaded with acquire; an mbarrier, which
// vouches for the stores that it counted, and of their senders for no more than what these had
// behind a barrier. By vector clocks, as ThreadSanitizer does it: the order in which threads
// happened to run is no part of it. Takes 4 bytes for every pair of threads of a launch.
#pragma once

#include <unordered_map>

#include "cuda_simulation.h"

namespace simulation {

// By thread of the launch, and behind them, as they come, by mbarrier, whose clock is its phase.
using Clocks = std::vector<uint32_t>;

__attribute__((optimize("O3"))) inline void join(Clocks& into, const Clocks& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

struct Epoch {
  uint32_t thread, clock;
  bool before(const Clocks& clocks) const {
    return clock == 0 || (thread < clocks.size() && clock <= clocks[thread]);
  }
};

class Races {
 public:
  // Of the launch that runs.
  static Races& now() {
    static Races races;
    if (races.launch_ != machine().launches) races.start();
    return races;
  }

  void read(const void* from, size_t size) {
    const uint32_t thread = thread_of(self());
    each_cell(from, size, [&](Cell& cell) {
      check(cell.written, clocks_[thread], "a read after a write");
      cell.reads[thread] = clocks_[thread][thread];
    });
  }

  void write(const void* to, size_t size) {
    const uint32_t thread = thread_of(self());
    write(to, size, {thread, clocks_[thread][thread]}, clocks_[thread]);
  }

  // All of them have come together.
  void meet(const std::vector<Fiber*>& fibers) {
    Clocks all;
    for (const Fiber* fiber : fibers) join(all, clocks_[thread_of(*fiber)]);
    for (const Fiber* fiber : fibers) {
      const uint32_t thread = thread_of(*fiber);
      clocks_[thread] = all;
      ++clocks_[thread][thread];
    }
  }

  void fence() {
    const uint32_t thread = thread_of(self());
    fenced_[thread] = clocks_[thread];
    ++clocks_[thread][thread];
  }
  void store_flag(const void* flag) { flags_[flag] = fenced_[thread_of(self())]; }
  void load_flag(const void* flag) { join(clocks_[thread_of(self())], flags_[flag]); }

  void init(const void* barrier) { write(barrier, 8); }
  // What a phase of an mbarrier gathers, and those who wait for its end take.
  void arrive(const void* barrier, uint32_t phase) {
    const uint32_t thread = thread_of(self());
    read(barrier, 8);
    gather(barrier, phase, clocks_[thread]);
    ++clocks_[thread][thread];
  }
  void wait(const void* barrier, uint32_t phase) {
    read(barrier, 8);
    join(clocks_[thread_of(self())], phases_[barrier].gathered[phase % 2].clocks);
  }

  // An asynchronous store: what this returns, called with the barrier's phase, makes it arrive.
  auto send(const void* to, size_t size, const void* barrier) {
    const uint32_t thread = thread_of(self());
    return [this, to, size, barrier, thread, clocks = clocks_[thread]](uint32_t phase) {
      const Epoch epoch{clock_of(barrier), phase + 1};
      check_written(barrier, 8, clocks);
      write(to, size, epoch, clocks);
      Clocks counted = clocks;
      --counted[thread];
      if (counted.size() <= epoch.thread) counted.resize(epoch.thread + 1);
      counted[epoch.thread] = epoch.clock;
      gather(barrier, phase, counted);
    };
  }

 private:
  // Of two bytes.
  struct Cell {
    Epoch written{0, 0};
    std::unordered_map<uint32_t, uint32_t> reads;  // clocks by thread, since the write
  };
  struct Phase {
    uint32_t number = 0;
    Clocks clocks;
  };
  struct MessageBarrierClocks {
    uint32_t clock = 0;  // where it stands among the clocks; 0 as long as it has none
    Phase gathered[2];
  };

  void start() {
    launch_ = machine().launches;
    const dim3& grid = machine().grid;
    const size_t count = size_t(grid.x) * grid.y * machine().block.x;
    cells_.clear(), flags_.clear(), phases_.clear();
    barriers_ = 0;
    fenced_.assign(count, {});
    clocks_.assign(count, Clocks(count));
    for (size_t i = 0; i < count; ++i) clocks_[i][i] = 1;
  }

  static uint32_t thread_of(const Fiber& fiber) {
    const dim3& index = fiber.block->index;
    return (index.y * machine().grid.x + index.x) * machine().block.x + fiber.thread;
  }

  template <class F>
  void each_cell(const void* at, size_t size, F f) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(at) / 2;
    for (uintptr_t i = first; i <= first + (size - 1) / 2; ++i) f(cells_[i]);
  }

  void write(const void* to, size_t size, Epoch epoch, const Clocks& clocks) {
    each_cell(to, size, [&](Cell& cell) {
      check(cell.written, clocks, "a write after a write");
      for (const auto& [reader, clock] : cell.reads) {
        check({reader, clock}, clocks, "a write after a read");
      }
      cell.written = epoch;
      cell.reads.clear();
    });
  }

  void check_written(const void* at, size_t size, const Clocks& clocks) {
    each_cell(at, size,
              [&](Cell& cell) { check(cell.written, clocks, "a use of a barrier after a write"); });
  }

  void check(Epoch earlier, const Clocks& now, const char* what) {
    if (!earlier.before(now) && machine().failure.empty()) {
      machine().failure =
          std::string("a data race: ") + what + " of " +
          (earlier.thread < clocks_.size() ? "thread " + std::to_string(earlier.thread)
                                           : std::string("an asynchronous store"));
    }
  }

  uint32_t clock_of(const void* barrier) {
    uint32_t& clock = phases_[barrier].clock;
    if (clock == 0) clock = uint32_t(clocks_.size()) + barriers_++;
    return clock;
  }

  void gather(const void* barrier, uint32_t phase, const Clocks& clocks) {
    Phase& gathered = phases_[barrier].gathered[phase % 2];
    if (gathered.number != phase) gathered = {phase, {}};
    join(gathered.clocks, clocks);
  }

  int64_t launch_ = -1;
  uint32_t barriers_ = 0;
  std::vector<Clocks> clocks_, fenced_;
  std::unordered_map<uintptr_t, Cell> cells_;
  std::unordered_map<const void*, Clocks> flags_;
  std::unordered_map<const void*, MessageBarrierClocks> phases_;
};

}  // namespace simulation
