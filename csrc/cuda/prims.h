// The instructions that CUDA C++ has no name for, one function each. The simulation has its own.
#pragma once

#include <cstdint>

#include "../cells/cell.h"
#include "platform.h"

#ifndef FRNN_CUDA_SIMULATION
namespace fastrnn::cuda {

// ---- special functions -------------------------------------------------------------------------

// Within 2 units in the last place.
FRNN_HD float approximate_exp2(float x) {
#ifdef __CUDA_ARCH__
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
#endif
  return x;
}

// Within 1 unit in the last place; 0 at infinity.
FRNN_HD float approximate_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
#endif
  return x;
}

#ifdef __CUDACC__

// ---- tensor cores: D += A B for one warp, A [16, k], B [k, 8], D [16, 8] -----------------------
// Lane 4 g + t holds of D: [g][2 t], [g][2 t + 1], [g + 8][2 t], [g + 8][2 t + 1].

FRNN_DEVICE void mma_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

FRNN_DEVICE void mma_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

FRNN_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

FRNN_DEVICE float round_to_tf32(float x) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  return x;
#endif
}

FRNN_DEVICE void trap() { __trap(); }

// ---- flags in global memory --------------------------------------------------------------------

// All that this thread wrote, or saw through a barrier, is seen by whoever reads the flag.
FRNN_DEVICE void set_flag(uint32_t* flag, uint32_t value) {
  asm volatile("fence.acq_rel.gpu; st.relaxed.gpu.u32 [%0], %1;" ::"l"(flag), "r"(value)
               : "memory");
}

FRNN_DEVICE uint32_t read_flag(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// Past the L1 cache, which knows nothing of what other CTAs write.
FRNN_DEVICE uint4 load_fresh(const uint4* p) { return __ldcg(p); }

// ---- clusters ----------------------------------------------------------------------------------

FRNN_DEVICE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();  // for .aligned
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
#endif
}

// A barrier in shared memory that counts arrivals, and bytes that are still to come.
struct MessageBarrier {
  uint64_t state;

  FRNN_DEVICE uint32_t address() const { return uint32_t(__cvta_generic_to_shared(this)); }

  FRNN_DEVICE void init() {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address()) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }

  // The phase ends when so many bytes have come since it began. Only this CTA acquires what came
  // before it here: a release to the cluster would put a fence over all memory into every step.
  FRNN_DEVICE void expect(uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()),
                 "r"(bytes)
                 : "memory");
#endif
  }

  // By whole warps.
  FRNN_DEVICE void wait(uint32_t parity) {
#if __CUDA_ARCH__ >= 900
    uint32_t done = 0;
    while (!done) {
      asm volatile(
          "{ .reg .pred p;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p; }"
          : "=r"(done)
          : "r"(address()), "r"(parity)
          : "memory");
    }
    __syncwarp();  // mma.sync wants the warp's lanes together again
#endif
  }
};

// Stores a word where the CTA of that rank has what `to` is here, and tells its barrier.
FRNN_DEVICE void send(uint32_t* to, uint32_t value, MessageBarrier* barrier, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
  uint32_t remote_to, remote_barrier;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(remote_to)
      : "r"(uint32_t(__cvta_generic_to_shared(to))), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(remote_barrier)
      : "r"(barrier->address()), "r"(rank));
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(remote_to),
      "r"(value), "r"(remote_barrier)
      : "memory");
#endif
}

#endif

}  // namespace fastrnn::cuda
#endif
