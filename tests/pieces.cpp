// Opens the engine's C++ pieces to pytest. Built by tests/test_pieces.py, and by nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cells/cells.h"
#include "cpu/gemm.h"
#include "cpu/plan.h"
#include "cpu/slice.h"
#include "cpu/vec.h"

namespace py = pybind11;
using namespace fastrnn;
using namespace fastrnn::cpu;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

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
  for (py::ssize_t i = 0; i < x.size(); i += V::kSize) {
    const int n = int(std::min<py::ssize_t>(V::kSize, x.size() - i));
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
  for (py::ssize_t i = 0; i < x.size(); ++i) {
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
  for (py::ssize_t i = 0; i < bits.size(); i += V::kSize) {
    const int n = int(std::min<py::ssize_t>(V::kSize, bits.size() - i));
    store(out.mutable_data() + i, load<V>(from + i, n), n);
  }
  return out;
}

template <class S, int kBytes>
Array<uint16_t> narrow(Array<float> x) {
  using V = Vec<float, kBytes>;
  Array<uint16_t> out(x.size());
  S* to = reinterpret_cast<S*>(out.mutable_data());
  for (py::ssize_t i = 0; i < x.size(); i += V::kSize) {
    const int n = int(std::min<py::ssize_t>(V::kSize, x.size() - i));
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

// a [rows, depth] times b [depth, vectors], plus init [rows, vectors], by tiles.
template <class Arch, class T>
Array<T> multiply_tiles(Array<T> a, Array<T> b, Array<T> init) {
  const int64_t rows = a.shape(0), depth = a.shape(1), columns = b.shape(1);
  const int vectors = int(columns / Vec<T, Arch::kBytes>::kSize);
  Array<T> c({rows, columns});
  multiply<Arch>(rows, depth, a.data(), depth, b.data(), columns, vectors, init.data(), columns,
                 c.mutable_data(), columns);
  return c;
}

// The same with a [depth, rows], in one packed tile.
template <class Arch, class T>
Array<T> packed_tile(Array<T> a, Array<T> b, Array<T> init) {
  const int64_t rows = a.shape(1), depth = a.shape(0), columns = b.shape(1);
  Array<T> c({rows, columns});
  select_tile<Arch, T, RowLayout::kPacked>(int(rows), int(columns / Vec<T, Arch::kBytes>::kSize))(
      depth, a.data(), 0, b.data(), columns, init.data(), columns, c.mutable_data(), columns);
  return c;
}

// a [rows, depth] times b^T, b [count, depth], plus init [kSize].
template <class Arch, class T>
Array<T> multiply_dots(Array<T> a, Array<T> b, Array<T> init) {
  constexpr int W = Vec<T, Arch::kBytes>::kSize;
  const int64_t rows = a.shape(0), depth = a.shape(1);
  Array<T> c({rows, int64_t(W)});
  dots<Arch>(rows, depth, a.data(), depth, b.data(), depth, int(b.shape(0)), init.data(),
             c.mutable_data(), W);
  return c;
}

// ---- cells --------------------------------------------------------------------------------------

using Values = std::vector<double>;

template <class Cell>
std::tuple<Values, Values> forward(const Values& x, const Values& r, const Values& s) {
  double xs[Cell::kGates], rs[Cell::kGates], ss[Cell::kStates], s1[Cell::kStates];
  fastrnn::Values<double, Cell::kSaved> z{};
  std::copy_n(x.begin(), Cell::kGates, xs);
  std::copy_n(r.begin(), Cell::kGates, rs);
  std::copy_n(s.begin(), Cell::kStates, ss);
  Cell::forward(xs, rs, ss, s1, z);
  return {{s1, s1 + Cell::kStates}, {z, z + Cell::kSaved}};
}

// Returns d(loss)/d(x), d(r), and the elementwise part of d(s).
template <class Cell>
std::tuple<Values, Values, Values> backward(const Values& z, const Values& s, const Values& s1,
                                            const Values& ds) {
  double ss[Cell::kStates], s1s[Cell::kStates], dss[Cell::kStates];
  double dx[Cell::kGates], dr[Cell::kGates];
  fastrnn::Values<double, Cell::kSaved> zs{};
  std::copy_n(z.begin(), Cell::kSaved, zs);
  std::copy_n(s.begin(), Cell::kStates, ss);
  std::copy_n(s1.begin(), Cell::kStates, s1s);
  std::copy_n(ds.begin(), Cell::kStates, dss);
  Cell::backward(zs, ss, s1s, dss, dx, dr);
  const double* recurrent = Cell::kAdditive ? dx : dr;
  return {
      {dx, dx + Cell::kGates}, {recurrent, recurrent + Cell::kGates}, {dss, dss + Cell::kStates}};
}

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

int64_t state_offset(int64_t direction_stride, int64_t row_stride, int64_t direction, int64_t row) {
  ScanParams p;
  const Slice slice{p, 0, 0, direction, row, 1, 0, 1, 1};
  const State s{nullptr, direction_stride, row_stride};
  return slice.at<char>(s, 0) - static_cast<char*>(nullptr);
}

int64_t panel_offset(int64_t depth, int64_t columns, int vectors, int64_t column) {
  using V = Vec<float, 32>;
  const Panels<V> panels{nullptr, depth, columns, vectors};
  return panels.at(column) - static_cast<float*>(nullptr);
}

std::pair<int64_t, int64_t> plan(int threads, int64_t directions, int64_t batch, int64_t steps,
                                 int64_t depth, int64_t columns, int64_t column_groups) {
  const Plan plan =
      make_plan({threads, directions, batch, steps, depth, columns, column_groups, 4});
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

template <class T, int kBytes>
void add_vector(py::module_& m, const std::string& suffix) {
  m.def(("apply" + suffix).c_str(), apply_all<T, kBytes>);
  m.def(("transposed" + suffix).c_str(), transposed<T, kBytes>);
}

template <class Arch>
void add_arch(py::module_& m, const std::string& name) {
  constexpr int kBytes = Arch::kBytes;
  add_vector<float, kBytes>(m, "_float32_" + name);
  add_vector<double, kBytes>(m, "_float64_" + name);
  m.def(("worst_float32_" + name).c_str(), worst_float<kBytes>);
  m.def(("worst_float64_" + name).c_str(), worst_double<kBytes>);
  m.def(("widen_bfloat16_" + name).c_str(), widen<bf16, kBytes>);
  m.def(("widen_float16_" + name).c_str(), widen<f16, kBytes>);
  m.def(("narrow_bfloat16_" + name).c_str(), narrow<bf16, kBytes>);
  m.def(("narrow_float16_" + name).c_str(), narrow<f16, kBytes>);
  m.def(("multiply_float32_" + name).c_str(), multiply_tiles<Arch, float>);
  m.def(("multiply_float64_" + name).c_str(), multiply_tiles<Arch, double>);
  m.def(("packed_tile_float32_" + name).c_str(), packed_tile<Arch, float>);
  m.def(("packed_tile_float64_" + name).c_str(), packed_tile<Arch, double>);
  m.def(("dots_float32_" + name).c_str(), multiply_dots<Arch, float>);
  m.def(("dots_float64_" + name).c_str(), multiply_dots<Arch, double>);
  m.attr(("tile_rows_" + name).c_str()) =
      std::vector<int>{tile_rows<Arch>(2), tile_rows<Arch>(3), tile_rows<Arch>(4),
                       tile_rows<Arch>(6), tile_rows<Arch>(8)};
  m.attr(("bytes_" + name).c_str()) = kBytes;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  // The same sources for vectors of any width: the compiler splits what the machine does not have.
  add_arch<Baseline>(m, "baseline");
  add_arch<Avx2>(m, "avx2");
  add_arch<Avx512>(m, "avx512");
#define FRNN_CELL(name, Cell)            \
  m.def("forward_" name, forward<Cell>); \
  m.def("backward_" name, backward<Cell>);
  FRNN_CELLS(FRNN_CELL)
#undef FRNN_CELL
  m.def("sequence_offset", sequence_offset);
  m.def("packed_offset", packed_offset);
  m.def("state_offset", state_offset);
  m.def("panel_offset", panel_offset);
  m.def("plan", plan);
  m.def("row_groups", row_groups);
}
