// AVX-512 with AVX512_VNNI: products of int8. All else is AVX-512's.
#if defined(__x86_64__)
#include "shared.h"

#define FRNN_F16C
#define FRNN_MADD
#define FRNN_AVX512_VNNI
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif

#include "int8_tiles.h"

namespace fastrnn::cpu {
extern const Int8Products kVnniProducts;
const Int8Products kVnniProducts = kInt8Products<Avx512Vnni, ByQuads<Avx512Vnni>>;
}  // namespace fastrnn::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
