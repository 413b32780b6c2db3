// Vec<T, Bytes>: a SIMD vector of float or double in the compiler's own vector extension (GCC and
// Clang), with the functions that cells call. The instruction set that is chosen by the enclosing
// target region decides what it becomes. Two things have no name but an intrinsic: f16 converted by
// F16C, and products of bf16 by AVX512_BF16. A source that opens a region with these instructions
// defines FRNN_F16C and FRNN_AVX512_BF16; everywhere else the same is computed in plain vectors.
//
// bf16 and f16 are storage types: they are converted on load and on store, and never added up in.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#define FRNN_INLINE inline __attribute__((always_inline))

namespace fastrnn::cpu {

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

// Two values that follow each other along k, the first one in the low half.
using Pair = uint32_t;

// The type that products accumulate in.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// In a struct of its own, because GCC 12 takes a dependent vector_size in Vec itself for plain T.
template <class T, int kBytes>
struct RawVector {
  typedef T Type __attribute__((vector_size(kBytes)));
};

template <class T, int kBytes>
struct Vec {
  static constexpr int kSize = kBytes / sizeof(T);
  using Scalar = T;
  using Raw = typename RawVector<T, kBytes>::Type;
  using RawBits = typename RawVector<Bits<T>, kBytes>::Type;

  Raw raw;

  Vec() = default;
  FRNN_INLINE Vec(Raw r) : raw(r) {}
  // x - 0 is x for every x, -0 and NaN included, so this is a broadcast and nothing else.
  FRNN_INLINE Vec(T scalar) : raw(scalar - Raw{}) {}

  FRNN_INLINE RawBits bits() const { return (RawBits)raw; }

  FRNN_INLINE friend Vec operator+(Vec a, Vec b) { return a.raw + b.raw; }
  FRNN_INLINE friend Vec operator-(Vec a, Vec b) { return a.raw - b.raw; }
  FRNN_INLINE friend Vec operator*(Vec a, Vec b) { return a.raw * b.raw; }
  FRNN_INLINE friend Vec operator/(Vec a, Vec b) { return a.raw / b.raw; }
  FRNN_INLINE friend Vec operator-(Vec a) { return -a.raw; }
  FRNN_INLINE friend RawBits operator<(Vec a, Vec b) { return a.raw < b.raw; }
  FRNN_INLINE friend RawBits operator<=(Vec a, Vec b) { return a.raw <= b.raw; }

  FRNN_INLINE friend Vec where(RawBits mask, Vec a, Vec b) { return mask ? a.raw : b.raw; }
  FRNN_INLINE friend Vec abs(Vec a) {
    return (Raw)(a.bits() & std::numeric_limits<Bits<T>>::max());
  }
  FRNN_INLINE friend Vec copysign(Vec magnitude, Vec sign) {
    constexpr Bits<T> kSign = std::numeric_limits<Bits<T>>::min();
    return (Raw)((magnitude.bits() & ~kSign) | (sign.bits() & kSign));
  }
};

// ---- exp, sigmoid, tanh -------------------------------------------------------------------------

// exp(x) = 2^n e^r with n = round(x / ln 2), r = x - n ln 2. kMagic + n has n in its low bits.
// kLn2Hi + kLn2Lo is ln 2, and kLn2Hi has so few bits that n * kLn2Hi is exact even without FMA:
// for float it is 355 / 512, as in Cephes; for double the upper 32 bits, as in fdlibm. kExp is a
// polynomial for (e^r - 1 - r) / r^2 up to |r| = ln(2) / 2, kTanh one in x^2 for
// (tanh(x) / x - 1) / x^2 up to tanh(x) = 1/2. coefficients.py makes them.
template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float kLog2e = 1.44269504088896341f, kMagic = 12582912.f;
  static constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;
  static constexpr float kMin = -104.5f, kMax = 89.f;  // exp is 0 and infinity beyond
  static constexpr float kSaturated = 10.f;            // tanh is 1 beyond
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kExp[] = {0.500000008104f,   0.166666667567f,   0.0416662398591f,
                                   0.00833328593148f, 0.00139486406372f, 1.99076379953e-4f};
  static constexpr float kTanh[] = {-0.333333209511f, 0.133326309351f, -0.0538523322661f,
                                    0.0210588618005f, -0.006243412197f};
};

template <>
struct Constants<double> {
  static constexpr double kLog2e = 1.44269504088896340736, kMagic = 6755399441055744.0;
  static constexpr double kLn2Hi = 6.93147180369123816490e-1, kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kMin = -746., kMax = 710.;
  static constexpr double kSaturated = 20.;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kExp[] = {0.50000000000000102655,   0.16666666666666674561,
                                    0.041666666666521526949,  0.0083333333333221716312,
                                    0.0013888888947962542784, 1.9841269886699926183e-4,
                                    2.480148716583870928e-5,  2.7557242213510690926e-6,
                                    2.7632716110097872761e-7, 2.511009630403348889e-8};
  static constexpr double kTanh[] = {
      -0.33333333333333317646,   0.13333333333329117176,    -0.053968253964875800129,
      0.021869488410198589468,   -0.0088632329000894314145, 0.0035920942176187130597,
      -0.0014555524942762038756, 5.8846886274562847796e-4,  -2.3341053954118000425e-4,
      8.3317473467896698055e-5,  -1.9473782494444464996e-5};
};

template <class V, class T, int kTerms>
FRNN_INLINE V polynomial(V x, const T (&terms)[kTerms]) {
  V sum = V(terms[kTerms - 1]);
#pragma GCC unroll 16
  for (int i = kTerms - 2; i >= 0; --i) sum = sum * x + V(terms[i]);
  return sum;
}

// 2^n for every n whose power is a normal number; shift adds to n.
template <class V>
FRNN_INLINE V power_of_two(typename V::RawBits n) {
  using C = Constants<typename V::Scalar>;
  return (typename V::Raw)((n + C::kBias) << C::kMantissa);
}

// x = n ln 2 + r; returns e^r in [0.7, 1.42]. x must lie within [kMin, kMax] or be NaN.
template <class V>
FRNN_INLINE V exp_reduced(V x, typename V::RawBits& n) {
  using C = Constants<typename V::Scalar>;
  V shifted = x * V(C::kLog2e) + V(C::kMagic);
  n = shifted.bits() - V(C::kMagic).bits();
  V rounded = shifted - V(C::kMagic);
  V r = x - rounded * V(C::kLn2Hi);
  r = r - rounded * V(C::kLn2Lo);
  // What the sum 1 + r loses goes into the smaller summand: 0.8 ulp instead of 1.
  V sum = V(1) + r;
  V lost = r - (sum - V(1));
  return sum + (polynomial(r, C::kExp) * (r * r) + lost);
}

// In two factors, so that subnormal results and those just below infinity are right.
template <class T, int kBytes>
FRNN_INLINE Vec<T, kBytes> exp(Vec<T, kBytes> x) {
  using V = Vec<T, kBytes>;
  using C = Constants<T>;
  x = where(x < V(C::kMin), V(C::kMin), x);
  x = where(V(C::kMax) < x, V(C::kMax), x);
  typename V::RawBits n;
  V e = exp_reduced(x, n);
  return e * power_of_two<V>(n >> 1) * power_of_two<V>(n - (n >> 1));
}

// With t = e^-|x|: 1 / (1 + t) for x >= 0, t / (1 + t) below, so that nothing cancels.
template <class T, int kBytes>
FRNN_INLINE Vec<T, kBytes> sigmoid(Vec<T, kBytes> x) {
  using V = Vec<T, kBytes>;
  using C = Constants<T>;
  // 2^(n + kUp) is normal for every n that occurs; the last factor makes t subnormal where it is.
  constexpr int kUp = C::kBias / 2;
  V a = -abs(x);
  a = where(a < V(C::kMin), V(C::kMin), a);
  typename V::RawBits n;
  V e = exp_reduced(a, n);
  V t = e * power_of_two<V>(n + kUp) * power_of_two<V>(typename V::RawBits{} - kUp);
  V sum = V(1) + t;
  V quotient = where(x < V(0), t, V(1)) / sum;
  // What the sum lost, to first order, with 1 - t/2 for 1 / (1 + t): without it, 2.3 ulp.
  V lost = t - (sum - V(1));
  return quotient - quotient * (lost * (V(1) - V(T(0.5)) * t));
}

// The polynomial up to tanh |x| = 1/2; with e = e^(-2|x|), 1 - 2 e / (1 + e) above.
template <class T, int kBytes>
FRNN_INLINE Vec<T, kBytes> tanh(Vec<T, kBytes> x) {
  using V = Vec<T, kBytes>;
  using C = Constants<T>;
  constexpr T kHalf = T(0.5494);  // atanh(1/2), rounded up
  V a = abs(x);
  V squared = x * x;
  V small = x + x * (squared * polynomial(squared, C::kTanh));
  typename V::RawBits n;
  V e = exp_reduced(where(V(C::kSaturated) < a, V(C::kSaturated), a) * V(-2), n);
  e = e * power_of_two<V>(n);
  V large = V(1) - (e + e) / (V(1) + e);
  return copysign(where(a < V(kHalf), small, large), x);  // of -0, too
}

// ---- loads and stores ---------------------------------------------------------------------------

template <class V>
FRNN_INLINE V load(const typename V::Scalar* p) {
  V v;
  std::memcpy(&v.raw, p, sizeof v.raw);
  return v;
}

template <class V>
FRNN_INLINE void store(typename V::Scalar* p, V v) {
  std::memcpy(p, &v.raw, sizeof v.raw);
}

template <class V>
using Half = typename RawVector<uint16_t, V::kSize * 2>::Type;

template <class V>
using Word = typename RawVector<uint32_t, V::kSize * 4>::Type;

// GCC 12 takes four instructions for either conversion, where there is one.
template <class V>
FRNN_INLINE Word<V> load_half(const void* p) {
  Half<V> h;
  std::memcpy(&h, p, sizeof h);
#ifdef FRNN_F16C
  if constexpr (V::kSize == 16) {
    return (Word<V>)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)h);
  } else {
    return (Word<V>)_mm256_cvtepu16_epi32((__m128i)h);
  }
#else
  return __builtin_convertvector(h, Word<V>);
#endif
}

template <class V>
FRNN_INLINE void store_half(void* p, Word<V> w) {
  Half<V> h;
#ifdef FRNN_F16C
  if constexpr (V::kSize == 16) {
    h = (Half<V>)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)w);
  } else {
    h = __builtin_convertvector(w, Half<V>);
  }
#else
  h = __builtin_convertvector(w, Half<V>);
#endif
  std::memcpy(p, &h, sizeof h);
}

template <class V>
FRNN_INLINE V load(const bf16* p) {
  return (typename V::Raw)(load_half<V>(p) << 16);
}

// Rounds to nearest, ties to even. A NaN stays a NaN.
template <class V>
FRNN_INLINE void store(bf16* p, V v) {
  Word<V> w = (Word<V>)v.raw;
  Word<V> rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16;
  store_half<V>(p, v.raw != v.raw ? (w >> 16) | 0x40 : rounded);
}

template <class V>
FRNN_INLINE V load(const f16* p) {
#ifdef FRNN_F16C
  Half<V> half;
  std::memcpy(&half, p, sizeof half);
  if constexpr (V::kSize == 16) {
    return (typename V::Raw)_mm512_maskz_cvtph_ps(0xffff, (__m256i)half);
  } else {
    return (typename V::Raw)_mm256_cvtph_ps((__m128i)half);
  }
#else
  Word<V> h = load_half<V>(p);
  Word<V> magnitude = (h & 0x7fff) << 13;
  Word<V> exponent = magnitude & 0x0f800000;
  Word<V> normal = magnitude + (112u << 23);
  // A subnormal is its bits times 2^-24: put a 1 in front of them, subtract it as a float.
  typename V::Raw subnormal =
      (typename V::Raw)(normal + (1u << 23)) - (typename V::Raw)(Word<V>{} + (113u << 23));
  Word<V> w = exponent == 0 ? (Word<V>)subnormal : normal;
  w = exponent == 0x0f800000 ? normal + (112u << 23) : w;
  return (typename V::Raw)(w | (h & 0x8000) << 16);
#endif
}

template <class V>
FRNN_INLINE void store(f16* p, V v) {
#ifdef FRNN_F16C
  Half<V> half;
  if constexpr (V::kSize == 16) {
    half = (Half<V>)_mm512_maskz_cvtps_ph(0xffff, (__m512)v.raw, _MM_FROUND_TO_NEAREST_INT);
  } else {
    half = (Half<V>)_mm256_cvtps_ph((__m256)v.raw, _MM_FROUND_TO_NEAREST_INT);
  }
  std::memcpy(p, &half, sizeof half);
#else
  Word<V> w = (Word<V>)v.raw;
  Word<V> magnitude = w & 0x7fffffff;
  Word<V> normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 1/2 puts the last bit of a half's subnormal at the last bit of the float's mantissa.
  typename V::Raw raised = (typename V::Raw)magnitude + 0.5f;
  Word<V> subnormal = (Word<V>)raised - 0x3f000000;
  Word<V> h = magnitude < (113u << 23) ? subnormal : normal;
  h = magnitude >= 0x47800000 ? Word<V>{} + 0x7c00 : h;
  h = magnitude > 0x7f800000 ? Word<V>{} + 0x7e00 : h;
  store_half<V>(p, h | (w >> 16 & 0x8000));
#endif
}

// The first n of the vector's elements; the others read as 0 and are not written. Always inlined:
// GCC 12 clears the upper half of a Vec that a function returns.
template <class V, class T>
FRNN_INLINE V load_part(const T* p, int n) {
  T part[V::kSize] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load<V>(part);
}

template <class V, class T>
FRNN_INLINE void store_part(T* p, V v, int n) {
  T part[V::kSize];
  store(part, v);
  std::memcpy(p, part, n * sizeof(T));
}

template <class V, class T>
FRNN_INLINE V load(const T* p, int n) {
  return n >= V::kSize ? load<V>(p) : load_part<V>(p, n);
}

template <class V, class T>
FRNN_INLINE void store(T* p, V v, int n) {
  n >= V::kSize ? store(p, v) : store_part(p, v, n);
}

// ---- pairs --------------------------------------------------------------------------------------

// sum + a b, for the two products in each lane: the second ones first, as AVX512_BF16 does.
template <class V>
FRNN_INLINE V dot(V sum, Vec<Pair, sizeof(V)> a, Vec<Pair, sizeof(V)> b) {
#ifdef FRNN_AVX512_BF16
  if constexpr (sizeof(V) == 64) {
#ifdef __clang__  // which crashes in version 16 where vectors of __bf16 are optimised
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
#else
    return (typename V::Raw)_mm512_dpbf16_ps((__m512)sum.raw, (__m512bh)a.raw, (__m512bh)b.raw);
#endif
  }
#endif
  using Raw = typename V::Raw;
  const Raw high = sum.raw + (Raw)(a.raw & 0xffff0000) * (Raw)(b.raw & 0xffff0000);
  return high + (Raw)(a.raw << 16) * (Raw)(b.raw << 16);
}

// Two rows of bf16 values, interleaved.
template <class V>
FRNN_INLINE Vec<Pair, sizeof(V)> pairs(V first, V second) {
  return ((Word<V>)first.raw >> 16) | (Word<V>)second.raw;
}

// The first and the second values of pairs of T, widened.
template <class T, class V>
FRNN_INLINE void split(Vec<Pair, sizeof(V)> both, V& first, V& second) {
  if constexpr (std::is_same_v<T, bf16>) {
    first = (typename V::Raw)(both.raw << 16);
    second = (typename V::Raw)(both.raw & 0xffff0000);
  } else {
    T half[2 * V::kSize];
    store_half<V>(half, both.raw);
    store_half<V>(half + V::kSize, both.raw >> 16);
    first = load<V>(half), second = load<V>(half + V::kSize);
  }
}

// ---- transposition ------------------------------------------------------------------------------

// Shuffles by 16 bytes at a time, and within each 16 bytes, because these are one instruction each:
// packing weights of 1 MB took 67 us by shuffles of single elements across the whole vector.

// kAcross elements of a and as many of b in turns, from the lower or the upper halves of 16 bytes.
template <int kAcross, class Raw, int... i>
FRNN_INLINE Raw interleave(Raw a, Raw b, bool high, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i), kLane = 16 / (sizeof(Raw) / n);
  auto from = [](int at, bool high) constexpr {
    const int lane = at / kLane * kLane, in = at % kLane, block = in / kAcross;
    return lane + (high ? kLane / 2 : 0) + block / 2 * kAcross + in % kAcross + block % 2 * n;
  };
  return high ? __builtin_shufflevector(a, b, from(i, true)...)
              : __builtin_shufflevector(a, b, from(i, false)...);
}

// The even or the odd 16 bytes of a and b, one behind the other.
template <class Raw, int... i>
FRNN_INLINE Raw every_other(Raw a, Raw b, bool odd, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i), kLane = 16 / (sizeof(Raw) / n);
  auto from = [](int at, bool odd) constexpr {
    return at / kLane * 2 * kLane + (odd ? kLane : 0) + at % kLane;
  };
  return odd ? __builtin_shufflevector(a, b, from(i, true)...)
             : __builtin_shufflevector(a, b, from(i, false)...);
}

// Transposes a square of vectors in place.
template <class V>
FRNN_INLINE void transpose(V (&rows)[V::kSize]) {
  constexpr int n = V::kSize, kLane = 16 / sizeof(typename V::Scalar), kLanes = n / kLane;
  constexpr auto all = std::make_integer_sequence<int, n>{};
  V next[n];
  // Within groups of as many rows as 16 bytes have elements: row c of group q then has the
  // columns c, kLane + c, ... of the group's rows.
#pragma GCC unroll 16
  for (int i = 0; i < n; i += 2) {
    next[i] = interleave<1>(rows[i].raw, rows[i + 1].raw, false, all);
    next[i + 1] = interleave<1>(rows[i].raw, rows[i + 1].raw, true, all);
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; i += kLane) {
    if constexpr (kLane == 2) {
      rows[i] = next[i], rows[i + 1] = next[i + 1];
    } else {
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        rows[i + 2 * c] = interleave<2>(next[i + c].raw, next[i + c + 2].raw, false, all);
        rows[i + 2 * c + 1] = interleave<2>(next[i + c].raw, next[i + c + 2].raw, true, all);
      }
    }
  }
  // Then 16 bytes at a time across the groups.
#pragma GCC unroll 2
  for (int round = 1; round < kLanes; round *= 2) {
#pragma GCC unroll 4
    for (int c = 0; c < kLane; ++c) {
#pragma GCC unroll 4
      for (int q = 0; q < kLanes / 2; ++q) {
        const V a = rows[2 * q * kLane + c], b = rows[(2 * q + 1) * kLane + c];
        next[q * kLane + c] = every_other(a.raw, b.raw, false, all);
        next[(kLanes / 2 + q) * kLane + c] = every_other(a.raw, b.raw, true, all);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
}

}  // namespace fastrnn::cpu
