// The numbers of the kernels: what is stored, what is computed with, and packs of two 16-bit ones.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>
#include <utility>

#include "../cells/cell.h"
#include "prims.h"

namespace fastrnn::cuda {

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

// What values of type T are computed in.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A float whose sigmoid and tanh take two special-function instructions. By the documented errors
// of these, each is within 1e-5 of itself: little beside the 5e-4 of rounding to float16.
struct Fast {
  float v;

  Fast() = default;
  FRNN_HD Fast(float value) : v(value) {}
  FRNN_HD explicit operator float() const { return v; }
};

FRNN_HD Fast operator+(Fast a, Fast b) { return a.v + b.v; }
FRNN_HD Fast operator-(Fast a, Fast b) { return a.v - b.v; }
FRNN_HD Fast operator*(Fast a, Fast b) { return a.v * b.v; }
FRNN_HD bool operator<(Fast a, Fast b) { return a.v < b.v; }
FRNN_HD bool operator<=(Fast a, Fast b) { return a.v <= b.v; }
FRNN_HD Fast where(bool condition, Fast a, Fast b) { return condition ? a : b; }

// By the instructions alone: the compiler's own __expf and __fdividef guard denormal numbers, which
// here end in 0 or 1 anyway.
FRNN_HD float fast_exp(float x) { return approximate_exp2(x * 1.4426950408889634f); }

FRNN_HD Fast sigmoid(Fast x) { return approximate_reciprocal(1 + fast_exp(-x.v)); }
FRNN_HD Fast tanh(Fast x) {
  const float far = 1 - 2 * approximate_reciprocal(1 + fast_exp(2 * x.v));
  // Near 0, where that leaves little but rounding, three terms of the series are within 2e-7.
  const float square = x.v * x.v;
  const float near = x.v * (1 + square * (-1.f / 3 + square * (2.f / 15)));
  return square < 1.f / 64 ? near : far;
}

// The value type that cells see.
template <class T>
using CellValue = std::conditional_t<sizeof(T) == 2, Fast, T>;

template <int kValue>
struct Constant {
  FRNN_HD constexpr operator int() const { return kValue; }
};

// Calls f with 0, 1, .. N - 1 as constants: what is looked up with them is known to the compiler.
template <int N, class F>
FRNN_HD void unrolled(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) {
    (f(Constant<i>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// Neighbouring hidden units that one thread takes, so that it moves whole 32-bit words.
template <class T>
inline constexpr int kPack = sizeof(T) == 2 ? 2 : 1;

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// The first `valid` values of p, zeros behind them; whole: p is aligned for the pack, and valid is
// N or 0.
template <int N, class T>
FRNN_HD Pack<T, N> load_pack(const T* p, int valid, bool whole) {
  Pack<T, N> pack{};
  if (whole) {
    if (valid) pack = *reinterpret_cast<const Pack<T, N>*>(p);
  } else {
    for (int e = 0; e < N; ++e) {
      if (e < valid) pack.v[e] = p[e];
    }
  }
  return pack;
}

template <int N, class T>
FRNN_HD void store_pack(T* p, const Pack<T, N>& pack, int valid, bool whole) {
  if (whole) {
    if (valid) *reinterpret_cast<Pack<T, N>*>(p) = pack;
  } else {
    for (int e = 0; e < N; ++e) {
      if (e < valid) p[e] = pack.v[e];
    }
  }
}

}  // namespace fastrnn::cuda
