#if defined(__x86_64__)
#include "shared.h"

#define FRNN_F16C
#define FRNN_MADD
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif

#include "isa.h"

namespace fastrnn::cpu {

const Engine kAvx512Engine = kEngine<Avx512>;

extern const Int8Products kVnniProducts;

namespace {

struct Vnni {
  static const Int8Products& products() { return kVnniProducts; }
};

}  // namespace

const Engine kAvx512VnniEngine = {Avx512Vnni::kName, run<Avx512, FloatForward>,
                                  run<Avx512, Backward>, run_int8<Avx512, Vnni>};

}  // namespace fastrnn::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
