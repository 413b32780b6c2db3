// Opens the engine's C++ pieces to pytest, as a program that pieces.py builds, starts and calls.
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "calls.h"
#include "cells/cells.h"
#include "cpu/forward_weights.h"
#include "cpu/gemm.h"
#include "cpu/int8_tiles.h"
#include "cpu/int8_weights.h"
#include "cpu/plan.h"
#include "cpu/slice.h"
#include "cpu/team.h"
#include "cpu/vec.h"

using namespace fastrnn;
using namespace fastrnn::cpu;
using calls::Array;

namespace {

// ---- functions ----------------------------------------------------------------------------------

enum class Function { kExp, kSigmoid, kTanh };

Function function(const std::string& name) {
  if (name == "exp") return Function::kExp;
  if (name == "sigmoid") return Function::kSigmoid;
  if (name == "tanh") return Function::kTanh;
  throw std::invalid_argument(name);
}

template <class V>
V apply(Function f, V x) {
  switch (f) {
    case Function::kExp: return exp(x);
    case Function::kSigmoid: return sigmoid(x);
    default: return tanh(x);
  }
}

template <class R>
R exact(Function f, R x) {
  switch (f) {
    case Function::kExp: return std::exp(x);
    case Function::kSigmoid: return R(1) / (R(1) + std::exp(-x));
    default: return std::tanh(x);
  }
}

template <class T, int kBytes>
Array<T> apply_all(const std::string& name, Array<T> x) {
  using V = Vec<T, kBytes>;
  Array<T> y(x.size());
  for (int64_t i = 0; i < x.size(); i += V::kSize) {
    const int n = int(std::min<int64_t>(V::kSize, x.size() - i));
    store(y.mutable_data() + i, apply(function(name), load<V>(x.data() + i, n)), n);
  }
  return y;
}

// The distance of y from the exact value, in units of the last place of T there.
template <class T, class R>
double ulps(T y, R exact) {
  if (std::isnan(exact)) return std::isnan(y) ? 0 : HUGE_VAL;
  if (std::isinf(T(exact))) return y == T(exact) ? 0 : HUGE_VAL;
  const T magnitude = std::max(std::abs(T(exact)), std::numeric_limits<T>::min());
  const T ulp = std::nextafter(magnitude, std::numeric_limits<T>::infinity()) - magnitude;
  return double(std::abs(R(y) - exact) / R(ulp));
}

// The largest error over every `stride`th float32 there is, infinities and NaNs among them; and
// where it is.
template <int kBytes>
std::pair<double, float> worst_float(const std::string& name, int64_t stride) {
  using V = Vec<float, kBytes>;
  const Function f = function(name);
  double worst = 0;
  float where = 0;
  for (int64_t bits = 0; bits < int64_t(1) << 32; bits += stride * V::kSize) {
    float x[V::kSize], y[V::kSize];
    for (int i = 0; i < V::kSize; ++i) {
      const uint32_t own = uint32_t(bits + i * stride);
      std::memcpy(&x[i], &own, 4);
    }
    store(y, apply(f, load<V>(x)));
    for (int i = 0; i < V::kSize; ++i) {
      const double error = ulps(y[i], exact(f, double(x[i])));
      if (!(error <= worst)) worst = error, where = x[i];
    }
  }
  return {worst, where};
}

template <int kBytes>
std::pair<double, double> worst_double(const std::string& name, Array<double> x) {
  const Array<double> y = apply_all<double, kBytes>(name, x);
  double worst = 0, where = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    const double error =
        ulps(y.data()[i], exact(function(name), static_cast<long double>(x.data()[i])));
    if (!(error <= worst)) worst = error, where = x.data()[i];
  }
  return {worst, where};
}

// ---- 16-bit types and transposition -------------------------------------------------------------

template <class S, int kBytes>
Array<float> widen(Array<uint16_t> bits) {
  using V = Vec<float, kBytes>;
  const S* from = reinterpret_cast<const S*>(bits.data());
  Array<float> out(bits.size());
  for (int64_t i = 0; i < bits.size(); i += V::kSize) {
    const int n = int(std::min<int64_t>(V::kSize, bits.size() - i));
    store(out.mutable_data() + i, load<V>(from + i, n), n);
  }
  return out;
}

template <class S, int kBytes>
Array<uint16_t> narrow(Array<float> x) {
  using V = Vec<float, kBytes>;
  Array<uint16_t> out(x.size());
  S* to = reinterpret_cast<S*>(out.mutable_data());
  for (int64_t i = 0; i < x.size(); i += V::kSize) {
    const int n = int(std::min<int64_t>(V::kSize, x.size() - i));
    store(to + i, load<V>(x.data() + i, n), n);
  }
  return out;
}

template <class T, int kBytes>
Array<T> transposed(Array<T> square) {
  using V = Vec<T, kBytes>;
  V rows[V::kSize];
  if (square.size() != V::kSize * V::kSize) throw std::invalid_argument("not a square of vectors");
  for (int i = 0; i < V::kSize; ++i) rows[i] = load<V>(square.data() + i * V::kSize);
  transpose(rows);
  Array<T> out(square.size());
  for (int i = 0; i < V::kSize; ++i) store(out.mutable_data() + i * V::kSize, rows[i]);
  return out;
}

// ---- products -----------------------------------------------------------------------------------

// Rows of numbers as a driver keeps them: padded, and of the type that products multiply.
template <class Arch, class T, class S = Operand<Arch, T>>
struct Rows {
  Rows(const Array<Compute<T>>& from, int64_t padding)
      : stride(from.shape(1) + padding), values(from.shape(0) * stride) {
    using V = Vec<Compute<T>, Arch::kBytes>;
    for (int64_t m = 0; m < from.shape(0); ++m) {
      for (int64_t j = 0; j < from.shape(1); j += V::kSize) {
        const int n = int(std::min<int64_t>(V::kSize, from.shape(1) - j));
        store(values.data() + m * stride + j, load<V>(from.data() + m * from.shape(1) + j, n), n);
      }
    }
  }
  const S* get() const { return values.data(); }

  int64_t stride;
  std::vector<S> values;
};

// a [rows, depth] times b [depth, units] of type T, plus init [rows, units], by panels of `vectors`
// and tiles.
template <class Arch, class T>
Array<Compute<T>> multiply_tiles(Array<Compute<T>> a, Array<Compute<T>> b, Array<Compute<T>> init) {
  using F = Factor<Arch, T>;
  const int64_t rows = a.shape(0), depth = a.shape(1), columns = b.shape(1);
  const int vectors = int(columns / Vec<Compute<T>, Arch::kBytes>::kSize);
  const Rows<Arch, T> left(a, depth % 2 ? 65 : 64);
  const Rows<Arch, T, T> right(b, 0);
  std::vector<Narrow<Arch, T>> panel(factors<F>(depth) * columns);
  pack_columns<Arch, T>([&](int64_t k) { return right.get() + k * columns; }, 0, columns, depth,
                        panel.data(), columns);
  Array<Compute<T>> c({rows, columns});
  multiply<Arch>(rows, factors<F>(depth), kDepthBlock, as_factors<F>(left.get()),
                 left.stride / kSpan<F>, panel.data(), columns, vectors, nullptr, init.data(),
                 columns, c.mutable_data(), columns);
  return c;
}

// The same with a [depth, rows], in one packed tile.
template <class Arch, class T>
Array<Compute<T>> packed_tile(Array<Compute<T>> a, Array<Compute<T>> b, Array<Compute<T>> init) {
  using F = Factor<Arch, T>;
  const int64_t rows = a.shape(1), depth = a.shape(0), columns = b.shape(1);
  const Rows<Arch, T, Compute<T>> left(a, 0), right(b, 0);
  std::vector<F> tall(factors<F>(depth) * rows), panel(factors<F>(depth) * columns);
  auto pack = [&](const auto& from, int64_t count, std::vector<F>& to) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < count; ++j) {
        const Compute<T> value = from.get()[k * count + j];
        F& at = to[k / kSpan<F> * count + j];
        if constexpr (kSpan<F> == 2) {
          at |= (std::bit_cast<uint32_t>(value) >> 16) << (k % 2 * 16);
        } else {
          at = value;
        }
      }
    }
  };
  pack(left, rows, tall);
  pack(right, columns, panel);
  Array<Compute<T>> c({rows, columns});
  select_tile<Arch, F, F, RowLayout::kPacked>(int(rows),
                                              int(columns / Vec<Compute<T>, Arch::kBytes>::kSize))(
      factors<F>(depth), tall.data(), 0, panel.data(), columns, init.data(), columns,
      c.mutable_data(), columns);
  return c;
}

// a [rows, depth] times b^T, b [units, depth] of type T, packed for so many rows, or as it lies.
template <class Arch, class T>
Array<Compute<T>> forward_weights(Array<Compute<T>> a, Array<Compute<T>> b, int64_t panel_rows) {
  const int64_t rows = a.shape(0), depth = a.shape(1), units = b.shape(0);
  const Rows<Arch, T> left(a, depth % 2 ? 65 : 64);
  const Rows<Arch, T, T> right(b, 0);
  const MatrixPart part{.weight = right.get(), .units = units, .depth = depth};
  ForwardWeights<Arch, T> weights(part, kShortBlock, panel_rows);
  weights.pack(0, weights.parts());
  const int64_t columns = (weights.columns() + weights.vectors() - 1) / weights.vectors() *
                          weights.vectors() * ForwardWeights<Arch, T>::W;
  Array<Compute<T>> c({rows, columns});
  weights.multiply(rows, weights.prepare(rows, left.get(), left.stride, nullptr), 0,
                   weights.parts(), c.mutable_data(), columns);
  return c;
}

struct Vnni {
  static const Int8Products& products() { return kInt8Products<Avx512Vnni, ByQuads<Avx512Vnni>>; }
};

// a [rows, depth] times gates [first, first + count) of weights [unit blocks, all gates, bytes] as
// fastrnn/quantization.py packs them, by their scale and bias [all gates * units]. The columns are
// [unit vector][gate][lane].
template <class Arch, class By>
Array<float> int8_weights(Array<float> a, Array<char> packed, Array<float> scale, Array<float> bias,
                          int first, int count) {
  const int64_t rows = a.shape(0), depth = a.shape(1), gates = packed.shape(1);
  const Rows<Arch, float> left(a, 64);
  const MatrixPart part{.weight = packed.data(),
                        .bias = bias.data(),
                        .scale = scale.data(),
                        .all_gates = int(gates),
                        .first = first,
                        .gates = count,
                        .units = scale.size() / gates,
                        .depth = depth};
  Int8Weights<Arch, By> weights(part, kShortBlock, rows);
  const int64_t columns = packed.shape(0) * weights.vectors();
  const int64_t width = columns * Int8Weights<Arch, By>::W;
  std::vector<char> memory(weights.prepared_bytes(rows, depth));
  const auto prepared = weights.prepare(rows, left.get(), left.stride, memory.data());
  Array<float> c({rows, width});
  weights.multiply(rows, prepared, 0, columns, c.mutable_data(), width);
  return c;
}

// ---- cells --------------------------------------------------------------------------------------

using Numbers = std::vector<double>;

// One step of a layer of one unit, by the cell's phases and its layout, forward and backward. Where
// forward has not written yet, and what a phase does not see, is NaN.
template <class Cell>
class UnitLayer {
 public:
  static constexpr const CellLayout& kCell = kLayout<Cell>;

  // x: the x part of each block of weight_ih, and behind them x itself; w: weight_hh, and weight_hr
  // behind it.
  UnitLayer(Numbers x, Numbers w, Numbers states, Numbers peepholes)
      : x_(x), w_(w), before_(states), peepholes_(peepholes), operands_(kCell.operands, kNothing) {
    operands_[0] = states[0];
  }

  Numbers forward() {
    each_phase(
        [this]<int p>(std::integral_constant<int, p>) {
          auto s = step<p>();
          const PhaseLayout& phase = kCell.phase[p];
          for (int g = 0; g < phase.gates; ++g) {
            const GateLayout& gate = kCell.gate[phase.first_gate + g];
            s.gate[g] = gate.x_block >= 0 ? x_[gate.x_block] : gate.is_x ? x_[kCell.x_blocks] : 0;
            if (gate.product >= 0) {
              s.gate[g] += weight(phase, gate) * operands_[phase.product[gate.product].operand];
            }
          }
          PhaseOf<Cell, p>::forward(s);
          PhaseOf<Cell, p>::operands(s);
          for (int k = 0; k < kCell.states; ++k) {
            if (contains(phase.writes, k)) after_[k] = s.after[k];
          }
          std::copy_n(s.saved, phase.saved, saved_.begin() + phase.first_saved);
          std::copy_n(s.operand, phase.operands, operands_.begin() + phase.first_operand);
        },
        false);
    return after_;
  }

  // The gradients of x, w, the states and the peepholes, for that of the states after the step.
  std::tuple<Numbers, Numbers, Numbers, Numbers> backward(Numbers grad) {
    Numbers grad_operand(kCell.operands), grad_x(x_.size()), grad_w(w_.size());
    Numbers grad_peepholes(kCell.weights);
    each_phase(
        [&]<int p>(std::integral_constant<int, p>) {
          auto s = step<p>();
          const PhaseLayout& phase = kCell.phase[p];
          for (int k = 0; k < kCell.states; ++k) {
            s.grad[k] = contains(phase.sees, k) ? grad[k] : kNothing;
            s.after[k] = contains(phase.writes, k) ? after_[k] : kNothing;
          }
          std::copy_n(saved_.begin() + phase.first_saved, phase.saved, s.saved);
          std::copy_n(grad_operand.begin() + phase.first_operand, phase.operands, s.grad_operand);
          PhaseOf<Cell, p>::operands(s);
          PhaseOf<Cell, p>::backward(s);
          PhaseOf<Cell, p>::weight_gradient(s);
          for (int k = 0; k < kCell.states; ++k) {
            if (contains(phase.sees, k)) grad[k] = s.grad[k];
          }
          std::copy_n(s.grad_weight, phase.weights, grad_peepholes.begin());
          for (int g = 0; g < phase.gates; ++g) {
            const GateLayout& gate = kCell.gate[phase.first_gate + g];
            if (gate.x_block >= 0) grad_x[gate.x_block] += s.grad_gate[g];
            if (gate.is_x) grad_x[kCell.x_blocks] += s.grad_gate[g];
            if (gate.product < 0) continue;
            const int operand = phase.product[gate.product].operand;
            grad_operand[operand] += weight(phase, gate) * s.grad_gate[g];
            grad_w[row(phase, gate)] += operands_[operand] * s.grad_gate[g];
          }
        },
        true);
    grad[0] += grad_operand[0];
    return {grad_x, grad_w, grad, grad_peepholes};
  }

 private:
  static constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

  static int row(const PhaseLayout& phase, const GateLayout& gate) {
    return (phase.size == kOutputSize ? kCell.h_blocks : 0) + gate.h_block;
  }
  double weight(const PhaseLayout& phase, const GateLayout& gate) const {
    return w_[row(phase, gate)];
  }

  template <int p>
  UnitStep<PhaseOf<Cell, p>, Cell::kStates, double> step() const {
    UnitStep<PhaseOf<Cell, p>, Cell::kStates, double> s{};
    for (int k = 0; k < kCell.states; ++k) {
      s.before[k] = contains(kCell.phase[p].sees, k) ? before_[k] : kNothing;
    }
    std::copy_n(peepholes_.begin(), kCell.phase[p].weights, s.weight);
    return s;
  }

  template <class F>
  static void each_phase(F f, bool reverse) {
    if (reverse && kCell.phases == 2) f(std::integral_constant<int, kCell.phases - 1>{});
    f(std::integral_constant<int, 0>{});
    if (!reverse && kCell.phases == 2) f(std::integral_constant<int, kCell.phases - 1>{});
  }

  Numbers x_, w_, before_, peepholes_, operands_;
  Numbers after_ = Numbers(kCell.states, kNothing), saved_ = Numbers(kCell.saved + 1, kNothing);
};

template <class Cell>
std::pair<Numbers, std::tuple<Numbers, Numbers, Numbers, Numbers>> run_cell(Numbers x, Numbers w,
                                                                            Numbers states,
                                                                            Numbers peepholes,
                                                                            Numbers grad) {
  UnitLayer<Cell> layer(x, w, states, peepholes);
  const Numbers after = layer.forward();
  return {after, layer.backward(grad)};
}

// What the contract forbids is found.
template <class... P>
struct Broken {
  static constexpr int kStates = 1;
  using Phases = List<P...>;
};
template <class Cell>
inline constexpr Faults kFaults =
    find_faults<Cell>(make_layout<Cell>(PhasesOf<Cell>{}), PhasesOf<Cell>{});

template <Gate kGate, int kMade, unsigned kStates>
struct PhaseOfGate : Phase {
  static constexpr Gates<1> kGates{{kGate}};
  static constexpr int kOperands = kMade;
  static constexpr unsigned kWrites = kStates;
};
using Makes = PhaseOfGate<Gate{'a'}, 1, kNoStates>;
static_assert(!kFaults<Broken<Makes, PhaseOfGate<Gate{'b', kWx, 1}, 0, kOnlyH>>>.any());
static_assert(kFaults<Broken<PhaseOfGate<Gate{'a'}, 0, kNoStates>>>.states);
static_assert(
    kFaults<Broken<PhaseOfGate<Gate{'a'}, 1, kOnlyH>, PhaseOfGate<Gate{'b', kWx, 1}, 0, kOnlyH>>>.states);
static_assert(kFaults<Broken<PhaseOfGate<Gate{'a', kNoX, kNoOperand}, 0, kOnlyH>>>.gates);
static_assert(kFaults<Broken<PhaseOfGate<Gate{'a', kWx, 1}, 0, kOnlyH>>>.operands);
static_assert(kFaults<Broken<Makes, PhaseOfGate<Gate{'b'}, 0, kOnlyH>>>.operands);
static_assert(kFaults<Broken<PhaseOfGate<Gate{'a', kX}, 0, kOnlyH>>>.x);

// ---- addresses and plans ------------------------------------------------------------------------

// In elements, from a row of features of a sequence and of a state.
int64_t sequence_offset(int64_t step_stride, int64_t row_stride, int64_t step, int64_t row) {
  ScanParams p;
  p.schedule.steps = step + 1;
  p.schedule.batch = row + 1;
  const Slice slice{p, 0, 0, 0, row, 1, 0, 1, 1};
  const Sequence s{nullptr, step_stride, row_stride};
  return slice.at<char>(s, step, 0) - static_cast<char*>(nullptr);
}

int64_t packed_offset(std::vector<int64_t> first, int64_t row_stride, int64_t step, int64_t row) {
  Schedule schedule;
  schedule.packed = true;
  schedule.firsts = first.data();
  return schedule.offset({nullptr, row_stride, row_stride}, step, row);
}

int64_t state_offset(int64_t direction_stride, int64_t row_stride, int direction, int64_t row) {
  ScanParams p;
  const Slice slice{p, 0, 0, direction, row, 1, 0, 1, 1};
  const State s{nullptr, direction_stride, row_stride};
  return slice.at<char>(s, 0) - static_cast<char*>(nullptr);
}

int64_t panel_offset(int64_t depth, int64_t columns, int vectors, int64_t column) {
  Panels<Avx2, float> panels;
  panels.depth = depth, panels.columns = columns, panels.vectors = vectors;
  return panels.offset(column);
}

std::pair<int64_t, int64_t> plan(int threads, int64_t directions, int64_t batch, int64_t steps,
                                 int64_t depth, int64_t columns, int64_t column_groups) {
  const Plan plan = make_plan(
      {threads, directions, batch, steps, depth, columns, column_groups, 4, 1, 512 << 10});
  return {plan.row_groups, plan.unit_groups};
}

// Where the groups of rows with falling lengths begin, and the last one ends.
std::vector<int64_t> row_groups(std::vector<int64_t> lengths, int64_t groups) {
  std::vector<int64_t> first(2);
  first[1] = std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
  Schedule s;
  s.steps = 1;
  s.batch = lengths.size();
  s.firsts = first.data();
  s.lengths = lengths.data();
  std::vector<int64_t> begins;
  for (int64_t group = 0; group <= groups; ++group) begins.push_back(first_row(s, groups, group));
  return begins;
}

// How often each share of each stage of a team was run, and how often one began before the stage
// before was done. Members come one after the other in one thread, or at once, some late.
std::pair<std::vector<int64_t>, int64_t> run_team(int64_t shares, int64_t stages, bool at_once,
                                                  int64_t late_microseconds) {
  const ScanParams p;
  Team team(shares);
  std::vector<int64_t> counts(shares * stages);
  std::vector<std::atomic<int64_t>> done(stages);
  std::atomic<int64_t> early = 0;
  auto run = [&](int64_t share) {
    if (share) std::this_thread::sleep_for(std::chrono::microseconds(late_microseconds));
    if (!team.join()) return;
    Member member(team, {p, share, 0, 0, 0, 1, share, share + 1, shares});
    for (int64_t stage = 0; stage < stages; ++stage) {
      member.together([&](const Slice& slice) {
        if (stage && done[stage - 1] < shares) ++early;
        ++counts[stage * shares + slice.first_share];  // no atomic: a stage has one thread for it
        ++done[stage];
      });
      if (done[stage] < shares) ++early;
    }
  };
  std::vector<std::thread> threads;
  for (int64_t share = 0; share < shares; ++share) {
    at_once ? (void)threads.emplace_back(run, share) : run(share);
  }
  for (std::thread& thread : threads) thread.join();
  return {counts, early};
}

// The threads that a crowded caller takes of `threads`, before and after it lost `lost` of `all`
// microseconds in each of the parts of each of `calls` calls.
std::vector<int64_t> crowd(int threads, std::vector<int64_t> lost, std::vector<int64_t> all,
                           int64_t calls) {
  Crowd crowd;
  std::vector<int64_t> taken{crowd.threads(threads)};
  for (int64_t i = 0; i < calls; ++i) {
    for (size_t part = 0; part < lost.size(); ++part) {
      crowd.note(std::chrono::microseconds(lost[part]), std::chrono::microseconds(all[part]));
    }
    taken.push_back(crowd.threads(threads));
  }
  return taken;
}

template <class T, int kBytes>
void add_vector(calls::Functions& all, const std::string& suffix) {
  all.add("apply" + suffix, apply_all<T, kBytes>);
  all.add("transposed" + suffix, transposed<T, kBytes>);
}

template <class Arch, class T>
void add_products(calls::Functions& all, const std::string& suffix) {
  all.add("multiply" + suffix, multiply_tiles<Arch, T>);
  all.add("forward_weights" + suffix, forward_weights<Arch, T>);
  all.add("packed_tile" + suffix, packed_tile<Arch, T>);
}

template <class Arch>
std::vector<int64_t> tile_heights() {
  return {tile_rows<Arch>(2), tile_rows<Arch>(3), tile_rows<Arch>(4), tile_rows<Arch>(6),
          tile_rows<Arch>(8)};
}

template <class Arch>
int bytes() {
  return Arch::kBytes;
}

template <class Arch>
void add_arch(calls::Functions& all, const std::string& name) {
  constexpr int kBytes = Arch::kBytes;
  add_vector<float, kBytes>(all, "_float32_" + name);
  add_vector<double, kBytes>(all, "_float64_" + name);
  all.add("worst_float32_" + name, worst_float<kBytes>);
  all.add("worst_float64_" + name, worst_double<kBytes>);
  all.add("widen_bfloat16_" + name, widen<bf16, kBytes>);
  all.add("widen_float16_" + name, widen<f16, kBytes>);
  all.add("narrow_bfloat16_" + name, narrow<bf16, kBytes>);
  all.add("narrow_float16_" + name, narrow<f16, kBytes>);
  add_products<Arch, float>(all, "_float32_" + name);
  add_products<Arch, double>(all, "_float64_" + name);
  add_products<Arch, bf16>(all, "_bfloat16_" + name);
  add_products<Arch, f16>(all, "_float16_" + name);
  all.add("int8_weights_" + name, int8_weights<Arch, Widening<Arch>>);
  all.add("tile_rows_" + name, tile_heights<Arch>);
  all.add("bytes_" + name, bytes<Arch>);
}

}  // namespace

int main() {
  calls::Functions all;
  // The same sources for vectors of any width: the compiler splits what the machine does not have.
  add_arch<Baseline>(all, "baseline");
  add_arch<Avx2>(all, "avx2");
  add_arch<Avx512>(all, "avx512");
  add_products<Avx512Bf16, bf16>(all, "_bfloat16_avx512_bf16");
  all.add("int8_weights_avx512_vnni", int8_weights<Avx512, Vnni>);
  // By the places of cells' forms in the list.
  int form = 0;
#define FRNN_CELL(name, Cell) all.add("cell_" + std::to_string(form++), run_cell<Cell>);
  FRNN_CELLS(FRNN_CELL)
#undef FRNN_CELL
  all.add("sequence_offset", sequence_offset);
  all.add("packed_offset", packed_offset);
  all.add("state_offset", state_offset);
  all.add("panel_offset", panel_offset);
  all.add("plan", plan);
  all.add("row_groups", row_groups);
  all.add("run_team", run_team);
  all.add("crowd", crowd);
  all.serve();
}
