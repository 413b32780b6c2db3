// Vectors of int8 and what products of them take: exact sums in int32. A source that opens a region
// with AVX2 or AVX-512BW defines FRNN_MADD, one with AVX512_VNNI FRNN_AVX512_VNNI as well;
// everywhere else the same is computed in plain vectors.
#pragma once

#include "vec.h"

namespace fastrnn::cpu {

// Unsigned, because their sums wrap around.
template <int kBytes>
using Words = typename RawVector<uint32_t, kBytes>::Type;
template <int kBytes>
using SignedWords = typename RawVector<int32_t, kBytes>::Type;
template <int kBytes>
using Shorts = typename RawVector<int16_t, kBytes>::Type;

template <int kBytes>
FRNN_INLINE Words<kBytes> load_words(const void* p) {
  Words<kBytes> words;
  std::memcpy(&words, p, sizeof words);
  return words;
}

// As many int8 as fill a vector once they are widened.
template <int kBytes>
FRNN_INLINE Shorts<kBytes> widen(const int8_t* p) {
  typename RawVector<int8_t, kBytes / 2>::Type narrow;
  std::memcpy(&narrow, p, sizeof narrow);
#ifdef FRNN_MADD
  if constexpr (kBytes == 64) {
    return (Shorts<kBytes>)_mm512_maskz_cvtepi8_epi16(~0u, (__m256i)narrow);
  } else {
    return (Shorts<kBytes>)_mm256_cvtepi8_epi16((__m128i)narrow);
  }
#else
  return __builtin_convertvector(narrow, Shorts<kBytes>);
#endif
}

// Four int16 in every eight bytes.
template <int kBytes>
FRNN_INLINE Shorts<kBytes> broadcast_four(const int16_t* p) {
  int64_t four;
  std::memcpy(&four, p, sizeof four);
  return (Shorts<kBytes>)(four - typename RawVector<int64_t, kBytes>::Type{});
}

// sum + a b, for the two products in each lane. Of the products, none may exceed int16: those of
// [-127, 127] are within 16129.
template <int kBytes>
FRNN_INLINE Words<kBytes> add_products(Words<kBytes> sum, Shorts<kBytes> a, Shorts<kBytes> b) {
#ifdef FRNN_MADD
  if constexpr (kBytes == 64) {
    return sum + (Words<kBytes>)_mm512_madd_epi16((__m512i)a, (__m512i)b);
  } else {
    return sum + (Words<kBytes>)_mm256_madd_epi16((__m256i)a, (__m256i)b);
  }
#else
  const auto both = (SignedWords<kBytes>)(a * b);
  return sum + (Words<kBytes>)((both << 16 >> 16) + (both >> 16));
#endif
}

// sum + a b for the four products in each lane, of uint8 in a and int8 in b.
template <int kBytes>
FRNN_INLINE Words<kBytes> add_four_products(Words<kBytes> sum, Words<kBytes> a, Words<kBytes> b) {
#ifdef FRNN_AVX512_VNNI
  if constexpr (kBytes == 64) {
    return (Words<kBytes>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
  }
#endif
#pragma GCC unroll 4
  for (int shift = 0; shift < 32; shift += 8) {
    sum += (a >> shift & 0xff) * (Words<kBytes>)((SignedWords<kBytes>)(b << (24 - shift)) >> 24);
  }
  return sum;
}

// The sums of neighbouring lanes of a, and behind them those of b.
template <class Raw, int... i>
FRNN_INLINE Raw add_neighbours(Raw a, Raw b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, 2 * i...) + __builtin_shufflevector(a, b, 2 * i + 1 ...);
}

// To nearest, ties to even, for |x| < 2^22; a NaN becomes any number.
template <int kBytes>
FRNN_INLINE Words<kBytes> round_to_int(Vec<float, kBytes> x) {
#ifdef FRNN_MADD
  if constexpr (kBytes == 64) {
    return (Words<kBytes>)_mm512_maskz_cvtps_epi32(0xffff, (__m512)x.raw);
  } else {
    return (Words<kBytes>)_mm256_cvtps_epi32((__m256)x.raw);
  }
#else
  const Vec<float, kBytes> magic(Constants<float>::kMagic);
  return (Words<kBytes>)(x + magic).bits() - (Words<kBytes>)magic.bits();
#endif
}

// The low bytes of the lanes.
template <int kBytes>
FRNN_INLINE void store_bytes(uint8_t* p, Words<kBytes> w) {
  typename RawVector<uint8_t, kBytes / 4>::Type bytes;
#ifdef FRNN_AVX512_VNNI
  if constexpr (kBytes == 64) {
    bytes = (decltype(bytes))_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)w);
    std::memcpy(p, &bytes, sizeof bytes);
    return;
  }
#endif
  bytes = __builtin_convertvector(w, decltype(bytes));
  std::memcpy(p, &bytes, sizeof bytes);
}

}  // namespace fastrnn::cpu
