// What PTX instructions do, for the C++ that tests/ptx.py makes of the PTX that nvcc makes of the
// kernels, in the simulation: registers hold bits, and an instruction's type says how to read them.
// Written from the PTX ISA, and not from what the simulation does in the instructions' place, whose
// barriers, shuffles and messages it shares. Loads and stores must be aligned, without races, and
// shared ones within the CTA's memory. It does not ask that the lanes of a warp be together.
#pragma once

#include <bit>
#include <limits>

#include "cuda_simulation.h"
#include "races.h"

namespace ptx {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;
using f16 = torch::headeronly::Half;
using bf16 = torch::headeronly::BFloat16;
using b16 = u16;
using b32 = u32;
using b64 = u64;

struct Registration {
  Registration(const char* name, void (*kernel)(u64 params)) {
    simulation::machine().compiled[name] = kernel;
  }
};

// ---- registers
// -----------------------------------------------------------------------------------

template <class T>
using Bits = std::conditional_t<
    sizeof(T) == 1, u8,
    std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>>;

template <class T>
Bits<T> bits(T value) {
  return std::bit_cast<Bits<T>>(value);
}
template <class T>
T as(Bits<T> value) {
  T to;
  memcpy(&to, &value, sizeof(T));
  return to;
}
template <>
inline u16 bits(f16 value) {
  return value.x;
}
template <>
inline u16 bits(bf16 value) {
  return value.x;
}

// ---- memory
// --------------------------------------------------------------------------------------

// Shared addresses are offsets, behind a start where nothing is; in a cluster's window the CTA's
// rank stands above them.
inline constexpr u32 kSharedStart = 1024, kRankShift = 24;

// The launch ends with this; the thread that it happened to goes no further.
[[noreturn]] inline void fail(const char* what, u64 address) {
  auto& failure = simulation::machine().failure;
  if (failure.empty()) failure = std::string(what) + " at " + std::to_string(address);
  for (;;) simulation::switch_away();
}

inline char* shared(simulation::Block& block, u32 address, size_t size) {
  const size_t available = block.shared.size() - 128 - simulation::kGuard;
  if (address < kSharedStart || address - kSharedStart + size > available) {
    fail("an access beyond the shared memory", address);
  }
  return simulation::shared_of(block) + (address - kSharedStart);
}

struct Param {
  static constexpr bool kConstant = true;
  static char* at(u64 address, size_t) { return reinterpret_cast<char*>(address); }
};
struct Global : Param {
  static constexpr bool kConstant = false;
};
struct Shared {
  static constexpr bool kConstant = false;
  static char* at(u64 address, size_t size) {
    return shared(simulation::block(), u32(address), size);
  }
};

template <class Space>
char* place(u64 address, size_t size) {
  if (address % size) fail("a misaligned access", address);
  return Space::at(address, size);
}

// A register of its own type's width takes narrower values as that type extends them.
template <class T, class R>
void set(R& to, Bits<T> from) {
  if constexpr (std::is_signed_v<T> && std::is_integral_v<T>) {
    to = R(T(from));
  } else {
    to = R(from);
  }
}

template <class Space, class T, class... R>
void load(u64 address, R&... to) {
  constexpr size_t kSize = sizeof(T) * sizeof...(R);
  const char* from = place<Space>(address, kSize);
  if (!Space::kConstant) simulation::Races::now().read(from, kSize);
  auto next = [&](auto& r) {
    Bits<T> value;
    memcpy(&value, from, sizeof(T));
    from += sizeof(T);
    set<T>(r, value);
  };
  (next(to), ...);
}

template <class Space, class T, class... R>
void store(u64 address, R... values) {
  constexpr size_t kSize = sizeof(T) * sizeof...(R);
  char* to = place<Space>(address, kSize);
  simulation::Races::now().write(to, kSize);
  auto next = [&](Bits<T> value) {
    memcpy(to, &value, sizeof(T));
    to += sizeof(T);
  };
  (next(Bits<T>(values)), ...);
}

// ---- arithmetic
// ----------------------------------------------------------------------------------

#define FRNN_PTX_BINARY(name, expression)      \
  template <class T>                           \
  Bits<T> name(Bits<T> left, Bits<T> right) {  \
    const T a = as<T>(left), b = as<T>(right); \
    return bits<T>(T(expression));             \
  }
FRNN_PTX_BINARY(add_, a + b)
FRNN_PTX_BINARY(sub_, a - b)
FRNN_PTX_BINARY(mul_, a* b)
FRNN_PTX_BINARY(and_, a& b)
FRNN_PTX_BINARY(or_, a | b)
FRNN_PTX_BINARY(xor_, a ^ b)
FRNN_PTX_BINARY(div_, a / b)
FRNN_PTX_BINARY(rem_, a % b)
FRNN_PTX_BINARY(min_, a < b ? a : b)
FRNN_PTX_BINARY(max_, a < b ? b : a)
FRNN_PTX_BINARY(copysign_, std::copysign(b, a))  // the first one's sign
#undef FRNN_PTX_BINARY

#define FRNN_PTX_UNARY(name, expression) \
  template <class T>                     \
  Bits<T> name(Bits<T> value) {          \
    const T a = as<T>(value);            \
    return bits<T>(T(expression));       \
  }
FRNN_PTX_UNARY(neg_, -a)
FRNN_PTX_UNARY(abs_, std::abs(a))
FRNN_PTX_UNARY(not_, ~a)
FRNN_PTX_UNARY(rcp_, 1 / a)
#undef FRNN_PTX_UNARY

template <class T>
Bits<T> shl_(Bits<T> a, u32 by) {
  return by >= 8 * sizeof(T) ? 0 : Bits<T>(a << by);
}
template <class T>
Bits<T> shr_(Bits<T> a, u32 by) {
  const u32 most = 8 * sizeof(T) - 1;
  if (by > most) return std::is_signed_v<T> ? Bits<T>(as<T>(a) >> most) : 0;
  return Bits<T>(as<T>(a) >> by);
}

template <class T>
u64 mul_wide_(u32 a, u32 b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, s64, u64>;
  return u64(Wide(T(a)) * Wide(T(b)));
}
template <class T>
Bits<T> mad_lo_(Bits<T> a, Bits<T> b, Bits<T> c) {
  return a * b + c;
}
template <class T>
Bits<T> fma_(Bits<T> a, Bits<T> b, Bits<T> c) {
  return bits<T>(std::fma(as<T>(a), as<T>(b), as<T>(c)));
}
// Towards minus infinity.
template <class T>
Bits<T> fma_rm_(Bits<T> a, Bits<T> b, Bits<T> c) {
  static_assert(sizeof(T) == 4);
  const double sum = double(as<T>(a)) * as<T>(b) + as<T>(c);
  float rounded = float(sum);
  if (rounded > sum) rounded = std::nextafter(rounded, -std::numeric_limits<float>::infinity());
  return bits<T>(rounded);
}

template <class T>
Bits<T> selp_(Bits<T> a, Bits<T> b, bool p) {
  return p ? a : b;
}

inline u32 bfi(u32 from, u32 into, u32 at, u32 count) {
  const u32 mask = (count >= 32 ? ~0u : (1u << count) - 1) << at;
  return (into & ~mask) | ((from << at) & mask);
}
inline u32 prmt(u32 a, u32 b, u32 selector) {
  const u64 all = u64(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 pick = selector >> (4 * i) & 15;
    u32 byte = u32(all >> (8 * (pick & 7))) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

#define FRNN_PTX_COMPARISON(name, expression)        \
  template <class T>                                 \
  bool setp_##name##_(Bits<T> left, Bits<T> right) { \
    const T a = as<T>(left), b = as<T>(right);       \
    return expression;                               \
  }
FRNN_PTX_COMPARISON(eq, a == b)
FRNN_PTX_COMPARISON(ne, a<b || a> b)  // ordered
FRNN_PTX_COMPARISON(neu, !(a == b))
FRNN_PTX_COMPARISON(lt, a < b)
FRNN_PTX_COMPARISON(le, a <= b)
FRNN_PTX_COMPARISON(gt, a > b)
FRNN_PTX_COMPARISON(ge, a >= b)
FRNN_PTX_COMPARISON(ltu, !(a >= b))
FRNN_PTX_COMPARISON(leu, !(a > b))
FRNN_PTX_COMPARISON(gtu, !(a <= b))
FRNN_PTX_COMPARISON(geu, !(a < b))
#undef FRNN_PTX_COMPARISON

template <class To, class From>
Bits<To> cvt(Bits<From> from) {
  if constexpr (sizeof(To) == 2 && !std::is_integral_v<To>) {
    return bits<To>(To(float(as<From>(from))));
  } else if constexpr (sizeof(From) == 2 && !std::is_integral_v<From>) {
    return bits<To>(To(float(as<From>(from))));
  } else {
    return bits<To>(To(as<From>(from)));
  }
}
inline u32 cvt_rni(u32 from) { return bits(std::nearbyint(as<f32>(from))); }
inline u32 cvt_sat(u32 from) {
  const float a = as<f32>(from);
  return bits(!(a > 0) ? 0.f : a > 1 ? 1.f : a);
}
inline u32 cvt_rna_tf32(u32 from) {
  if ((from & 0x7f800000) != 0x7f800000) from += 0x1000;
  return from & ~0x1fffu;
}

// As exact as can be: CUDA's own functions rely on more than what is documented, such as exact
// powers of 2, and the simulation has the errors of ours.
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? 0 * x : x; }
inline u32 ex2_approx_ftz(u32 x) { return bits(flushed(std::exp2(flushed(as<f32>(x))))); }
inline u32 rcp_approx_ftz_f32(u32 x) { return bits(flushed(1 / flushed(as<f32>(x)))); }
inline u64 rcp_approx_ftz_f64(u64 x) { return bits(1 / as<f64>(x)) & ~u64(0xffffffff); }

// ---- threads that wait for each other
// -------------------------------------------------------------

inline void meet(simulation::Barrier& barrier) {
  if (barrier.waiting.size() + 1 == barrier.expected) {
    auto all = barrier.waiting;
    all.push_back(&simulation::self());
    simulation::Races::now().meet(all);
  }
  simulation::arrive_and_wait(barrier);
}

inline u32 shfl_bfly(u32 value, u32 mask, u32 clamp, u32 members) {
  if (clamp != 31 || members != ~0u) fail("a shuffle of some lanes only", members);
  return bits<u32>(__shfl_xor_sync(~0u, value, int(mask)));
}

// ---- tensor cores: D = A B + C
// --------------------------------------------------------------------

// One lane's registers.
struct MmaOperands {
  float* d;
  u32 a[4], b[2];
  float c[4];
};

// Calls f(D, A, B, C) on whole matrices; element(register, i) is element i of a lane's registers.
template <int kDepth, class Element>
void mma(MmaOperands mine, Element element) {
  simulation::self().operands[0] = &mine;
  simulation::with_warp([&](simulation::Fiber* const(&lanes)[32]) {
    constexpr int kEach = kDepth / 8;  // neighbouring columns of A that a register holds
    float a[16][kDepth], b[kDepth][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& m = *static_cast<const MmaOperands*>(lanes[lane]->operands[0]);
      const int group = lane >> 2, in_group = lane % 4;
      for (int i = 0; i < 4 * kEach; ++i) {
        const int r = i / kEach;
        const int row = r == 0 || r == 2 ? group : group + 8;
        const int column = in_group * kEach + i % kEach + (r >= 2 ? 4 * kEach : 0);
        a[row][column] = element(m.a[r], i % kEach);
      }
      for (int i = 0; i < 2 * kEach; ++i) {
        const int r = i / kEach;
        const int row = in_group * kEach + i % kEach + (r >= 1 ? 4 * kEach : 0);
        b[row][group] = element(m.b[r], i % kEach);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      const auto& m = *static_cast<const MmaOperands*>(lanes[lane]->operands[0]);
      for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = lane % 4 * 2 + (i & 1);
        float sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
        m.d[i] = m.c[i] + sum;
      }
    }
  });
}

template <class T>
void mma_sync(u32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const u32 (&c)[4]) {
  float result[4];
  MmaOperands mine{result, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {}};
  for (int i = 0; i < 4; ++i) mine.c[i] = as<f32>(c[i]);
  if constexpr (sizeof(T) == 2) {
    mma<16>(mine, [](u32 word, int i) { return float(as<T>(u16(word >> (16 * i)))); });
  } else {
    mma<8>(mine, [](u32 word, int) { return as<f32>(word & ~0x1fffu); });  // ignores the last bits
  }
  for (int i = 0; i < 4; ++i) d[i] = bits(result[i]);
}

// ---- clusters
// -------------------------------------------------------------------------------------

inline u32 mapa(u32 address, u32 rank) { return rank << kRankShift | address; }

inline const void* barrier_at(u32 address) {
  if (address % 8) fail("a misaligned mbarrier", address);
  return shared(simulation::block(), address, 8);
}
inline void mbarrier_init(u32 address, u32 arrivals) {
  simulation::MessageState state;
  state.arrivals = int(arrivals);
  if (arrivals != 1) fail("an mbarrier of more than one arrival", address);
  simulation::Races::now().init(barrier_at(address));
  simulation::block().messages[barrier_at(address)] = state;
}
inline simulation::MessageState& mbarrier(const void* barrier) {
  const auto found = simulation::block().messages.find(barrier);
  if (found == simulation::block().messages.end()) fail("an mbarrier without its init", 0);
  return found->second;
}
inline void mbarrier_arrive_expect_tx(u32 address, u32 bytes) {
  const void* barrier = barrier_at(address);
  auto& state = mbarrier(barrier);
  simulation::Races::now().arrive(barrier, state.phase);
  --state.arrivals;
  state.bytes += bytes;
  simulation::complete(state);
}
// Whether the phase of that parity has ended.
inline bool mbarrier_try_wait_parity(u32 address, u32 parity) {
  simulation::poll();
  const void* barrier = barrier_at(address);
  if (mbarrier(barrier).phase % 2 == parity) return false;
  simulation::Races::now().wait(barrier, parity);
  return true;
}
inline void st_async(u32 to, u32 value, u32 barrier) {
  const auto& cluster = simulation::block().cluster;
  if (to >> kRankShift >= cluster.size()) fail("a rank beyond the cluster", to);
  simulation::Block& target = *cluster[to >> kRankShift];
  if (to >> kRankShift != barrier >> kRankShift) fail("a barrier of another CTA", barrier);
  if (to % 4 || barrier % 8) fail("a misaligned st.async", to);
  const u32 offset = (1u << kRankShift) - 1;
  char* const at = shared(target, to & offset, 4);
  const void* const counted_by = shared(target, barrier & offset, 8);
  simulation::machine().messages.push_back(
      {&target, at, value, counted_by, simulation::Races::now().send(at, 4, counted_by)});
}

// ---- flags
// ---------------------------------------------------------------------------------------

inline void fence() { simulation::Races::now().fence(); }
inline void st_relaxed(u64 address, u32 value) {
  char* const flag = place<Global>(address, 4);
  memcpy(flag, &value, 4);
  simulation::Races::now().store_flag(flag);
}
inline u32 ld_acquire(u64 address) {
  simulation::poll();
  const char* const flag = place<Global>(address, 4);
  u32 value;
  memcpy(&value, flag, 4);
  simulation::Races::now().load_flag(flag);
  return value;
}

}  // namespace ptx
