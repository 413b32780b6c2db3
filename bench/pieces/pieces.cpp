// Times the engine's pieces: pieces MILLISECONDS REPETITIONS THREADS KIND... It is compiled for one
// instruction set, FRNN_ARCH, and but for tiles and functions for one type of weights, FRNN_TYPE.
//
// A line of its output is what was timed, the best and the median nanoseconds of a call, and the
// work of a call, with tabs between them. Every piece is timed once before any is timed again, so
// that another process, which takes the core for a while, spoils one repetition of many pieces
// and not all of one.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "cells/cells.h"
#include "cpu/backward_weights.h"
#include "cpu/buffer.h"
#include "cpu/cell_kernels.h"
#include "cpu/forward_weights.h"
#include "cpu/gemm.h"
#include "cpu/team.h"
#include "cpu/vec.h"
#include "cpu/weight_gradient.h"
#include "cpu/workspace.h"

using namespace fastrnn;
using namespace fastrnn::cpu;

namespace {

using Arch = FRNN_ARCH;
using Weight = FRNN_TYPE;

// ---- names and numbers --------------------------------------------------------------------------

template <class T>
const char* type_name() {
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, bf16>) return "bfloat16";
  if constexpr (std::is_same_v<T, f16>) return "float16";
  return "float32";
}

int64_t cache_bytes(int level) {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  const long found = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
  if (found > 0) return found;
#endif
  return level == 1 ? 32 << 10 : 512 << 10;
}

uint32_t next_random() {
  static uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  return state >> 8;
}

// Numbers of either sign, their magnitudes between 1/8 and 1: no sum of products with them becomes
// subnormal or infinite.
template <class T>
T random_value() {
  if constexpr (std::is_same_v<T, f16>) {
    return {uint16_t(0x3000 + next_random() % 0xc00 + (next_random() & 1) * 0x8000)};
  } else if constexpr (std::is_same_v<T, Pair>) {
    return Pair(random_value<bf16>().bits) << 16 | random_value<bf16>().bits;
  } else {
    const float x =
        (0.125f + float(next_random()) * 0x1p-24f * 0.875f) * (next_random() & 1 ? 1.f : -1.f);
    if constexpr (std::is_same_v<T, bf16>) {
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      return {uint16_t(bits >> 16)};
    } else {
      return T(x);
    }
  }
}

template <class T>
Buffer<T> random_buffer(int64_t size) {
  Buffer<T> all(size);
  for (int64_t i = 0; i < size; ++i) all.get()[i] = random_value<T>();
  return all;
}

// Tells the compiler that something reads what lies at p.
void keep(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// ---- timing -------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;

double ns_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

// What this thread has had of its core: while others have it, nothing passes.
double own_ns() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1e9 + now.tv_nsec;
}

struct Piece {
  std::string name;
  double work;
  std::function<double(int64_t)> ns;  // that so many calls take
  int64_t calls = 1;
  std::vector<double> found;
};

class Pieces {
 public:
  Pieces(double milliseconds, int repetitions)
      : block_ns_(milliseconds * 1e6), repetitions_(repetitions) {}

  // run(n): n calls.
  void add(const std::string& name, double work, std::function<void(int64_t)> run) {
    add_timed(name, work, [run](int64_t calls) {
      const double start = own_ns();
      run(calls);
      return own_ns() - start;
    });
  }

  void add_timed(const std::string& name, double work, std::function<double(int64_t)> ns) {
    all_.push_back({name, work, std::move(ns)});
  }

  void run() {
    for (Piece& piece : all_) {
      double ns;
      while ((ns = piece.ns(piece.calls)) < block_ns_ / 4) piece.calls *= 2;
      piece.calls = std::max<int64_t>(1, int64_t(piece.calls * block_ns_ / ns + 1));
    }
    for (int i = 0; i < repetitions_; ++i) {
      for (Piece& piece : all_) {
        piece.ns(1 + piece.calls / 8);  // brings the operands back into the caches
        piece.found.push_back(piece.ns(piece.calls) / piece.calls);
      }
    }
    for (Piece& piece : all_) {
      std::sort(piece.found.begin(), piece.found.end());
      std::printf("%s\t%.9g\t%.9g\t%.9g\n", piece.name.c_str(), piece.found.front(),
                  piece.found[piece.found.size() / 2], piece.work);
    }
  }

 private:
  double block_ns_;
  int repetitions_;
  std::vector<Piece> all_;
};

std::string number(const char* name, int64_t value) {
  return std::string(" ") + name + "=" + std::to_string(value);
}

std::string word(const char* name, const std::string& value) {
  return std::string(" ") + name + "=" + value;
}

// ---- tiles --------------------------------------------------------------------------------------

// One panel that stays in the first-level cache, or as many as take half of the second-level one.
template <class F, class B>
void add_tile(Pieces& all, const std::string& type, RowLayout layout, int rows, int vectors,
              bool in_l1) {
  using C = Compute<F>;
  const int64_t stride = int64_t(vectors) * (Arch::kBytes / sizeof(C));
  const int64_t fits = cache_bytes(1) * 3 / 4 / (stride * sizeof(B));
  const int64_t depth = in_l1 ? std::min(kDepthBlock, fits) : kDepthBlock;
  const int64_t size = depth * stride;
  const int64_t panels =
      in_l1 ? 1 : std::max<int64_t>(2, cache_bytes(2) / 2 / (size * int64_t(sizeof(B))));
  struct Data {
    Buffer<F> a;
    Buffer<B> b;
    Buffer<C> init, c;
    int64_t next = 0;
  };
  const int64_t a_stride = padded(depth);
  auto data = std::make_shared<Data>();
  data->a = random_buffer<F>(rows * a_stride);
  data->b = random_buffer<B>(panels * size);
  data->init = random_buffer<C>(stride);
  data->c = random_buffer<C>(rows * stride);
  const bool packed = layout == RowLayout::kPacked;
  const auto tile = packed ? select_tile<Arch, F, B, RowLayout::kPacked>(rows, vectors)
                           : select_tile<Arch, F, B, RowLayout::kStrided>(rows, vectors);
  const std::string name = "kind=tiles" + word("type", type) +
                           word("layout", packed ? "packed" : "strided") + number("rows", rows) +
                           number("vectors", vectors) + word("from", in_l1 ? "L1" : "L2");
  all.add(name, 2. * rows * stride * depth * kSpan<F>, [=](int64_t calls) {
    for (int64_t i = 0; i < calls; ++i) {
      tile(depth, data->a.get(), a_stride, data->b.get() + data->next * size, stride,
           data->init.get(), 0, data->c.get(), stride);
      data->next = data->next + 1 < panels ? data->next + 1 : 0;
    }
  });
}

// Rows that are packed, as for the weights' gradients, come in full tiles only.
template <class F, class B>
void add_tiles(Pieces& all, const std::string& type) {
  for (const RowLayout layout : {RowLayout::kStrided, RowLayout::kPacked}) {
    for (const int vectors : {2, 3, 4, 6, 8}) {
      const int most = tile_rows<Arch>(vectors);
      for (int rows = layout == RowLayout::kPacked ? most : 1; rows <= most; ++rows) {
        for (const bool l1 : {true, false}) add_tile<F, B>(all, type, layout, rows, vectors, l1);
      }
    }
  }
}

void add_all_tiles(Pieces& all) {
  add_tiles<float, float>(all, "float32");
  add_tiles<double, double>(all, "float64");
  if constexpr (kByPairs<Arch, bf16>) {
    add_tiles<Pair, Pair>(all, "bfloat16-pairs");
  } else {
    add_tiles<float, bf16>(all, "bfloat16");
  }
  add_tiles<float, f16>(all, "float16");
}

// ---- products and packing -----------------------------------------------------------------------

using C = Compute<Weight>;
using O = Operand<Arch, Weight>;
using V = Vec<C, Arch::kBytes>;
constexpr int W = V::kSize;

// Weights of `gates` gates and rows to multiply by them, as a step of a driver does it.
struct ForwardProduct {
  ForwardProduct(int64_t rows, int gates, int64_t depth, int64_t units, bool packs)
      : rows(rows),
        gates(gates),
        units(units),
        values(random_buffer<Weight>(gates * units * depth)),
        weights({.weight = values.get(), .gates = gates, .units = units, .depth = depth},
                rows <= kFewRows ? kShortBlock : kDepthBlock, packs ? rows : 0),
        group(std::lcm(gates, weights.vectors()) / gates),
        a_stride(padded(depth)),
        a(random_buffer<O>(rows * a_stride)),
        out(rows * gates * group * W) {
    pack();
  }
  void pack() { weights.pack(0, weights.parts()); }
  void multiply() {
    const auto prepared = weights.prepare(rows, a.get(), a_stride, nullptr);
    for (int64_t block = 0; block * W < units; block += group) {
      weights.multiply(rows, prepared, block * gates, group * gates, out.get(), gates * group * W);
    }
  }

  int64_t rows;
  int gates;
  int64_t units;
  Buffer<Weight> values;
  ForwardWeights<Arch, Weight> weights;
  int64_t group, a_stride;
  Buffer<O> a;
  Buffer<C> out;
};

struct BackwardProduct {
  BackwardProduct(int64_t rows, int gates, int64_t units, int64_t columns, bool packs)
      : rows(rows),
        values(random_buffer<Weight>(gates * units * columns)),
        weights(values.get(), gates * units, columns, packs ? rows : 0),
        a_stride(padded(gates * units)),
        out_stride(padded(weights.columns() * W)),
        a(random_buffer<O>(rows * a_stride)),
        out(rows * out_stride) {
    pack();
  }
  void pack() { weights.pack(0, weights.parts()); }
  void multiply() {
    weights.multiply(rows, a.get(), a_stride, 0, weights.columns(), nullptr, 0, out.get(),
                     out_stride);
  }

  int64_t rows;
  Buffer<Weight> values;
  BackwardWeights<Arch, Weight> weights;
  int64_t a_stride, out_stride;
  Buffer<O> a;
  Buffer<C> out;
};

struct GradientProduct {
  GradientProduct(int64_t rows, int gates, int64_t units, int64_t columns)
      : a(random_buffer<O>(rows * padded(gates * units))),
        b(random_buffer<Weight>(rows * columns)),
        grad(gates * units * columns) {
    for (int64_t k = 0; k < rows; ++k) begins.push_back(b.get() + k * columns);
    jobs.push_back({.a = a.get(),
                    .a_stride = padded(gates * units),
                    .b = begins.data(),
                    .rows = rows,
                    .m = gates * units,
                    .n = columns,
                    .grad = grad.get(),
                    .bias = nullptr});
  }
  void multiply() { WeightGradient<Arch, Weight>(jobs, Pool{1, nullptr}).run(); }

  Buffer<O> a;
  Buffer<Weight> b, grad;
  std::vector<const Weight*> begins;
  std::vector<OuterProducts<Arch, Weight>> jobs;
};

template <class Product>
std::function<void(int64_t)> multiplies(std::shared_ptr<Product> product) {
  return [product](int64_t calls) {
    for (int64_t i = 0; i < calls; ++i) product->multiply();
  };
}

void add_products(Pieces& all) {
  constexpr int64_t kSteps = 10;  // whose gradients are one product
  for (const int gates : {4, 3, 1}) {
    for (const auto& [rows, units] : std::vector<std::pair<int64_t, int64_t>>{
             {4, 256}, {8, 256}, {16, 128}, {16, 256}, {32, 256}, {64, 512}, {96, 128}}) {
      const double flops = 2. * rows * gates * units * units;
      auto name = [&, rows = rows, units = units](const char* pass) {
        return "kind=products" + word("type", type_name<Weight>()) + word("pass", pass) +
               number("rows", rows) + number("gates", gates) + number("units", units);
      };
      all.add(name("forward"), flops,
              multiplies(std::make_shared<ForwardProduct>(rows, gates, units, units, true)));
      all.add(name("backward"), flops,
              multiplies(std::make_shared<BackwardProduct>(rows, gates, units, units, true)));
      all.add(name("weights"), flops * kSteps,
              multiplies(std::make_shared<GradientProduct>(rows * kSteps, gates, units, units)));
    }
  }
}

// A weight of 4 gates with as many inputs as units, of about so many bytes.
int64_t units_of(int64_t bytes) {
  int64_t units = 32;
  while (4 * (units + 16) * (units + 16) * int64_t(sizeof(Weight)) <= bytes) units += 16;
  return units;
}

struct Place {
  const char* name;
  int64_t bytes;
};
std::vector<Place> places() { return {{"L2", cache_bytes(2) / 2}, {"beyond", 4 * cache_bytes(2)}}; }

template <class Product>
void add_packing_of(Pieces& all, const char* pass) {
  for (const Place& place : places()) {
    // The packed weights lie beside them.
    const int64_t units = units_of(place.bytes / 2);
    auto product = std::make_shared<Product>(16, 4, units, units, true);
    all.add("kind=packing" + word("pass", pass) + word("from", place.name) +
                number("bytes", 4 * units * units * sizeof(Weight)),
            4. * units * units * sizeof(Weight), [product](int64_t calls) {
              for (int64_t i = 0; i < calls; ++i) product->pack();
            });
  }
}

template <class Product>
void add_reading_of(Pieces& all, const char* pass, bool packs) {
  for (const Place& place : places()) {
    const int64_t units = units_of(place.bytes);
    for (const int64_t rows : {1, 4, 8}) {
      all.add("kind=in-place" + word("pass", pass) +
                  word("weights", packs ? "packed" : "in-place") + word("from", place.name) +
                  number("rows", rows) + number("bytes", 4 * units * units * sizeof(Weight)),
              4. * units * units * sizeof(Weight),
              multiplies(std::make_shared<Product>(rows, 4, units, units, packs)));
    }
  }
}

// ---- threads ------------------------------------------------------------------------------------

// A stage in which there is nothing to do.
void meet(Member& member) {
  member.together([](const Slice&) {});
}

// The nanoseconds between two meetings, in which every thread of a team of `count` calls
// run(index, member). A team of one never waits.
double on_team(int count, const std::function<void(int, Member&)>& run) {
  const ScanParams nothing;
  Team team(count);
  std::vector<std::thread> others;
  auto work = [&](int index, double* ns) {
    Member member(team, {nothing, index, 0, 0, 0, 1, index, index + 1, count});
    meet(member);
    const auto start = Clock::now();
    run(index, member);
    meet(member);
    if (ns) *ns = ns_since(start);
  };
  for (int i = 1; i < count; ++i) others.emplace_back(work, i, nullptr);
  double ns = 0;
  work(0, &ns);
  for (std::thread& other : others) other.join();
  return ns;
}

std::vector<int> team_sizes(int from, int threads) {
  std::vector<int> all;
  for (int count = from; count < threads; count *= 2) all.push_back(count);
  all.push_back(threads);
  return all;
}

void add_meetings(Pieces& all, int threads) {
  for (const int count : team_sizes(2, threads)) {
    if (count < 2) continue;
    all.add_timed("kind=meetings" + number("members", count), 1, [count](int64_t calls) {
      return on_team(count, [calls](int, Member& member) {
        for (int64_t i = 0; i < calls; ++i) meet(member);
      });
    });
  }
}

__attribute__((noinline)) void read(const float* from, int64_t size) {
  using R = Vec<float, Arch::kBytes>;
  constexpr int kSums = 8;
  R sum[kSums];
#pragma GCC unroll 8
  for (int j = 0; j < kSums; ++j) sum[j] = R(0.f);
  for (int64_t i = 0; i + kSums * R::kSize <= size; i += kSums * R::kSize) {
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) sum[j] = sum[j] + load<R>(from + i + j * R::kSize);
  }
  keep(sum);
}

// Each thread reads bytes of its own: as many as the caches hold, then ever more.
void add_bandwidths(Pieces& all, int threads) {
  constexpr int64_t kMost = int64_t(64) << 20, kMostOfAll = int64_t(512) << 20;
  std::vector<int64_t> sizes{cache_bytes(1) / 2, cache_bytes(2) / 2};
  for (int64_t bytes = 2 * cache_bytes(2); bytes <= std::min(kMost, kMostOfAll / threads);) {
    sizes.push_back(bytes);
    bytes *= 2;
  }
  auto from = std::make_shared<std::vector<Buffer<float>>>();
  for (int i = 0; i < threads; ++i) from->push_back(random_buffer<float>(sizes.back() / 4));
  for (const int count : team_sizes(1, threads)) {
    for (const int64_t bytes : sizes) {
      all.add_timed("kind=reading" + number("threads", count) + number("bytes", bytes),
                    double(bytes) * count, [=](int64_t calls) {
                      return on_team(count, [=](int index, Member&) {
                        for (int64_t i = 0; i < calls; ++i) read((*from)[index].get(), bytes / 4);
                      });
                    });
    }
  }
}

// ---- cells --------------------------------------------------------------------------------------

// `rows` rows of `blocks` vectors of units, with all that a phase reads and writes.
class CellData {
 public:
  CellData(const CellLayout& cell, int rows, int blocks)
      : cell_(cell), rows_(rows), units_(int64_t(blocks) * W) {}

  template <class S>
  S* field(int64_t blocks, int64_t& stride) {
    stride = padded(std::max<int64_t>(blocks, 1) * units_);
    blocks_.push_back(std::make_shared<Buffer<S>>(random_buffer<S>(rows_ * stride)));
    return static_cast<Buffer<S>*>(blocks_.back().get())->get();
  }
  // A field of all rows, of which each row gets its own.
  template <class S, class Row>
  void give(std::vector<Row>& all, auto member, int64_t blocks = 1) {
    int64_t stride;
    S* const from = field<S>(blocks, stride);
    for (int m = 0; m < rows_; ++m) member(all[m]) = from + m * stride;
  }

  std::vector<ForwardRow<Arch, Weight>> forward_rows(bool saves) {
    using Row = ForwardRow<Arch, Weight>;
    std::vector<Row> all(rows_, Row{});
    give<C>(all, [](Row& row) -> auto& { return row.from_x; }, cell_.x_blocks);
    give<O>(all, [](Row& row) -> auto& { return row.x; });
    give<O>(all, [](Row& row) -> auto& { return row.h; });
    give<O>(all, [](Row& row) -> auto& { return row.next_h; });
    give<Weight>(all, [](Row& row) -> auto& { return row.y; });
    if (saves) give<Weight>(all, [](Row& row) -> auto& { return row.saved; }, cell_.saved);
    for (int q = 1; q < cell_.operands; ++q) {
      give<O>(all, [q](Row& row) -> auto& { return row.operand[q]; });
    }
    for (int k = 1; k < cell_.states; ++k) {
      give<C>(all, [k](Row& row) -> auto& { return row.carry[k]; });
      if (saves) give<C>(all, [k](Row& row) -> auto& { return row.steps[k]; });
    }
    int64_t stride;
    const Weight* const peephole = field<Weight>(cell_.weights, stride);
    for (Row& row : all) row.peephole = peephole;
    return all;
  }

  std::vector<BackwardRow<Arch, Weight>> backward_rows() {
    using Row = BackwardRow<Arch, Weight>;
    std::vector<Row> all(rows_, Row{});
    give<Weight>(all, [](Row& row) -> auto& { return row.grad_y; });
    give<Weight>(all, [](Row& row) -> auto& { return row.h_before; });
    give<Weight>(all, [](Row& row) -> auto& { return row.h_after; });
    give<Weight>(all, [](Row& row) -> auto& { return row.saved; }, cell_.saved);
    give<O>(all, [](Row& row) -> auto& { return row.grads; }, cell_.grad_row(1, 1));
    for (int q = 1; q < cell_.operands; ++q) {
      give<Weight>(all, [q](Row& row) -> auto& { return row.operand[q]; });
    }
    for (int k = 0; k < cell_.states; ++k) {
      give<C>(all, [k](Row& row) -> auto& { return row.carry[k]; });
      if (k == 0) continue;
      give<C>(all, [k](Row& row) -> auto& { return row.before[k]; });
      give<C>(all, [k](Row& row) -> auto& { return row.after[k]; });
    }
    int64_t stride;
    const Weight* const peephole = field<Weight>(cell_.weights, stride);
    for (Row& row : all) {
      row.peephole = peephole;
      row.output_grads = row.grads + cell_.grad_blocks * units_;
      row.active = true;
    }
    return all;
  }

 private:
  const CellLayout& cell_;
  int rows_;
  int64_t units_;
  std::vector<std::shared_ptr<void>> blocks_;
};

void add_phase(Pieces& all, int form, int index, const char* pass, const char* from, int rows,
               int blocks) {
  const CellKernels<Arch, Weight>& kernels = cell_kernels<Arch, Weight>(form);
  const CellLayout& cell = kernels.cell;
  const PhaseLayout& phase = cell.phase[index];
  const bool backward = !std::strcmp(pass, "backward");
  const int64_t units = int64_t(blocks) * W;
  auto data = std::make_shared<CellData>(cell, rows, blocks);
  int64_t stride;
  const C* const products =
      data->field<C>(backward ? phase.operands : phase.gates_before(phase.products), stride);
  std::function<void(int64_t)> run;
  if (backward) {
    run = [=, row = data->backward_rows(), f = kernels.phase[index].backward](int64_t calls) {
      for (int64_t i = 0; i < calls; ++i) {
        f(row.data(), rows, products, stride, 0, blocks, units);
      }
      keep(data.get());
    };
  } else {
    const bool saves = !std::strcmp(pass, "saving");
    run = [=, row = data->forward_rows(saves), f = kernels.phase[index].forward](int64_t calls) {
      for (int64_t i = 0; i < calls; ++i) {
        f(row.data(), rows, products, stride, 0, blocks, units);
      }
      keep(data.get());
    };
  }
  const char* const kind = cell.projected ? "projected" : cell.takes_x() ? "x" : "plain";
  all.add("kind=cells" + word("cell", std::string(kCells[form].name)) + word("form", kind) +
              number("phase", index) + word("pass", pass) + word("from", from) + number("lanes", W),
          double(rows) * blocks, run);
}

void add_cells(Pieces& all) {
  for (int form = 0; form < int(std::size(kCells)); ++form) {
    for (int index = 0; index < kCells[form].layout.phases; ++index) {
      for (const char* pass : {"forward", "saving", "backward"}) {
        add_phase(all, form, index, pass, "L1", 4, 4);
        add_phase(all, form, index, pass, "L2", 16, 8);
      }
    }
  }
}

// ---- functions ----------------------------------------------------------------------------------

template <class T, class F>
__attribute__((noinline)) void apply(const T* x, T* y, int64_t size, F f) {
  using X = Vec<T, Arch::kBytes>;
  for (int64_t i = 0; i < size; i += X::kSize) store(y + i, f(load<X>(x + i)));
}

template <class T, class F>
void add_function(Pieces& all, const char* name, F f) {
  constexpr int64_t kBytes = 4096;
  constexpr int64_t kCount = kBytes / sizeof(T);
  auto x = std::make_shared<Buffer<T>>(random_buffer<T>(kCount));
  auto y = std::make_shared<Buffer<T>>(kCount);
  for (int64_t i = 0; i < kCount; ++i) x->get()[i] *= 4;
  all.add("kind=functions" + word("function", name) + word("type", type_name<T>()),
          double(kBytes / Arch::kBytes), [=](int64_t calls) {
            for (int64_t i = 0; i < calls; ++i) apply(x->get(), y->get(), kCount, f);
            keep(y->get());
          });
}

template <class T>
void add_functions(Pieces& all) {
  add_function<T>(all, "exp", [](auto x) __attribute__((always_inline)) { return exp(x); });
  add_function<T>(all, "sigmoid", [](auto x) __attribute__((always_inline)) { return sigmoid(x); });
  add_function<T>(all, "tanh", [](auto x) __attribute__((always_inline)) { return tanh(x); });
}

bool add_kind(Pieces& all, const std::string& kind, int threads) {
  if (kind == "tiles") {
    add_all_tiles(all);
  } else if (kind == "products") {
    add_products(all);
  } else if (kind == "packing") {
    add_packing_of<ForwardProduct>(all, "forward");
    add_packing_of<BackwardProduct>(all, "backward");
  } else if (kind == "in-place") {
    for (const bool packs : {false, true}) {
      add_reading_of<ForwardProduct>(all, "forward", packs);
      add_reading_of<BackwardProduct>(all, "backward", packs);
    }
  } else if (kind == "reading") {
    add_bandwidths(all, threads);
  } else if (kind == "cells") {
    add_cells(all);
  } else if (kind == "functions") {
    add_functions<float>(all);
    add_functions<double>(all);
  } else if (kind == "meetings") {
    add_meetings(all, threads);
  } else {
    return false;
  }
  return true;
}

}  // namespace

int main(int count, char** argument) {
  if (count < 5) return 2;
  Pieces all(std::atof(argument[1]), std::max(1, std::atoi(argument[2])));
  for (int i = 4; i < count; ++i) {
    if (!add_kind(all, argument[i], std::max(1, std::atoi(argument[3])))) {
      std::fprintf(stderr, "no kind %s\n", argument[i]);
      return 2;
    }
  }
  all.run();
}
