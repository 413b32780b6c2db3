// The instruction sets that the CPU engine is compiled for. Every kernel is a template over one of
// these tags, so that each set has functions of its own; isa_*.cpp compiles one of them each.
#pragma once

namespace fastrnn::cpu {

#if defined(__aarch64__)
inline constexpr int kBaselineRegisters = 32;  // NEON
#else
inline constexpr int kBaselineRegisters = 16;  // SSE2, which every x86-64 has
#endif

// Whether bf16 is multiplied by pairs: one instruction adds two products to each float32.
struct Baseline {
  static constexpr const char* kName = "baseline";
  static constexpr bool kPairs = false;
  static constexpr int kBytes = 16;
  static constexpr int kRegisters = kBaselineRegisters;
};

struct Avx2 {
  static constexpr const char* kName = "avx2";
  static constexpr bool kPairs = false;
  static constexpr int kBytes = 32;
  static constexpr int kRegisters = 16;
};

struct Avx512 {
  static constexpr const char* kName = "avx512";
  static constexpr bool kPairs = false;
  static constexpr int kBytes = 64;
  static constexpr int kRegisters = 32;
};

// AVX512_BF16's dot has twice the FMA's rate on Zen 4 and 5, so bfloat16 takes this set there. On
// Intel's cores it has half of it (88 against 170 GFLOP/s on Emerald Rapids), so they take Avx512.
struct Avx512Bf16 : Avx512 {
  static constexpr const char* kName = "avx512_bf16";
  static constexpr bool kPairs = true;
};

// Multiplies int8 by AVX512_VNNI and everything else as Avx512 does.
struct Avx512Vnni : Avx512 {
  static constexpr const char* kName = "avx512_vnni";
};

}  // namespace fastrnn::cpu
