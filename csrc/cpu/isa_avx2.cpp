#if defined(__x86_64__)
#include "shared.h"

#define FRNN_F16C
#define FRNN_MADD
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "isa.h"

namespace fastrnn::cpu {
const Engine kAvx2Engine = kEngine<Avx2>;
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
