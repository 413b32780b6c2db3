// AVX-512 with AVX512_BF16: products of bf16 by pairs. All else is AVX-512's, and
// products of int8 AVX512_VNNI's, which every CPU with AVX512_BF16 has.
#if defined(__x86_64__)
#include "shared.h"

#define FRNN_F16C
#define FRNN_MADD
#define FRNN_AVX512_BF16
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif

#include "isa.h"

namespace fastrnn::cpu {
namespace {

template <template <class, class> class Driver>
void run_pairs(const ScanParams& p, const Pool& pool) {
  Driver<Avx512Bf16, bf16>(p, pool).run();
}

}  // namespace

const Engine kAvx512Bf16Engine = {
    Avx512Bf16::kName,
    [](const ScanParams& p, const Pool& pool) {
      p.type == Type::kBFloat16 ? run_pairs<FloatForward>(p, pool) : kAvx512Engine.forward(p, pool);
    },
    [](const ScanParams& p, const Pool& pool) {
      p.type == Type::kBFloat16 ? run_pairs<Backward>(p, pool) : kAvx512Engine.backward(p, pool);
    },
    [](const ScanParams& p, const Pool& pool) { kAvx512VnniEngine.forward_int8(p, pool); }};

}  // namespace fastrnn::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
