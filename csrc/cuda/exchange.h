// How the CTAs of a group hand each other the operand of the next step. All have the same
// interface:
//
//   start()        before the first step: slot(0) may be filled by hand, for this CTA alone
//   wait(i)        the operand of step i is whole, and in shared memory
//   put(i, ...)    one word of the operand of step i
//   commit(i)      this CTA has put all its words of step i; wait(i) follows
//   finish()       before the CTA may end
//
// A CTA puts words of step i after it has multiplied by the operand of step i - 1, and it has that
// only once all of its group have put theirs, so all of these have multiplied by the operand of
// i - 2: two slots are enough.
#pragma once

#include "geometry.h"
#include "prims.h"

namespace fastrnn::cuda {

// What the exchanges work on, for one CTA.
struct ExchangeSite {
  const Geometry& g;
  uint32_t* shared;          // the operand's slots, [padded rows][stride]
  MessageBarrier* barriers;  // [2]
  uint32_t* global;          // of the group: [2][rows][row_words]
  uint32_t* flags;           // of the group: [ctas], 0 when the kernel starts
  int rank;                  // of the CTA in its group
  int rows, row_words;       // of the operand

  FRNN_DEVICE uint32_t* slot(int i) const {
    return shared + (g.operand_slots == 2 ? i % 2 : 0) * g.padded_rows() * g.stride;
  }
};

// One CTA has all units.
class LocalExchange {
 public:
  static constexpr int kOldestArch = 800;
  static constexpr int kFewestTiles = 4;

  FRNN_DEVICE explicit LocalExchange(const ExchangeSite& site) : site_(site) {}

  FRNN_DEVICE void start() { __syncthreads(); }
  FRNN_DEVICE const uint32_t* wait(int) { return site_.slot(0); }
  FRNN_DEVICE void put(int, int row, int word, uint32_t value) {
    site_.slot(0)[row * site_.g.stride + word] = value;
  }
  FRNN_DEVICE void commit(int) { __syncthreads(); }
  FRNN_DEVICE void finish() {}

 private:
  const ExchangeSite& site_;
};

// The CTAs of a cluster send every word to each other's shared memory.
class ClusterExchange {
 public:
  static constexpr int kOldestArch = 900;
  static constexpr int kFewestTiles = 2;

  FRNN_DEVICE explicit ClusterExchange(const ExchangeSite& site) : site_(site) {}

  FRNN_DEVICE void start() {
    if (threadIdx.x == 0) {
      for (int slot = 0; slot < 2; ++slot) {
        site_.barriers[slot].init();
        site_.barriers[slot].expect(site_.rows * site_.row_words * 4);
      }
    }
    __syncthreads();
    cluster_barrier();
  }

  FRNN_DEVICE const uint32_t* wait(int i) {
    if (i > 0) {
      // Slot i % 2 is filled for the first time by step 1 or 2.
      MessageBarrier& barrier = site_.barriers[i % 2];
      barrier.wait((i - 1) / 2 % 2);
      if (threadIdx.x == 0) barrier.expect(site_.rows * site_.row_words * 4);
    }
    return site_.slot(i);
  }

  FRNN_DEVICE void put(int i, int row, int word, uint32_t value) {
    uint32_t* to = site_.slot(i) + row * site_.g.stride + word;
    for (int n = 0; n < site_.g.ctas; ++n) {
      // Each CTA begins with another one, so that not all send to the same.
      const int rank =
          site_.rank + n < site_.g.ctas ? site_.rank + n : site_.rank + n - site_.g.ctas;
      send(to, value, &site_.barriers[i % 2], rank);
    }
  }

  // All words but those that a reset makes zero depend on the sums that they are made of, so that
  // nobody multiplies again before these are read; the barrier is for those.
  FRNN_DEVICE void commit(int) { __syncthreads(); }

  FRNN_DEVICE void finish() { cluster_barrier(); }

 private:
  const ExchangeSite& site_;
};

// CTAs anywhere on the chip, all of them resident: words go through the L2 cache, and each CTA
// raises its flag to the step that it has put.
class GridExchange {
 public:
  static constexpr int kOldestArch = 800;
  static constexpr int kFewestTiles = 1;

  FRNN_DEVICE explicit GridExchange(const ExchangeSite& site) : site_(site) {}

  FRNN_DEVICE void start() { __syncthreads(); }

  FRNN_DEVICE const uint32_t* wait(int i) {
    if (i > 0) {
      for (int n = threadIdx.x; n < site_.g.ctas; n += kThreads) {
        while (read_flag(site_.flags + n) < uint32_t(i)) {
        }
      }
      __syncthreads();
      const uint4* from = reinterpret_cast<const uint4*>(global_slot(i));
      const int row_quads = site_.row_words / 4;
      for (int q = threadIdx.x; q < site_.rows * row_quads; q += kThreads) {
        const int row = q / row_quads;
        uint32_t* to = site_.slot(0) + row * site_.g.stride + (q - row * row_quads) * 4;
        *reinterpret_cast<uint4*>(to) = load_fresh(from + q);
      }
      __syncthreads();
    }
    return site_.slot(0);
  }

  FRNN_DEVICE void put(int i, int row, int word, uint32_t value) {
    global_slot(i)[row * site_.row_words + word] = value;
  }

  FRNN_DEVICE void commit(int i) {
    __syncthreads();
    if (threadIdx.x == 0) set_flag(site_.flags + site_.rank, i);
  }

  FRNN_DEVICE void finish() {}

 private:
  FRNN_DEVICE uint32_t* global_slot(int i) const {
    return site_.global + int64_t(i % 2) * site_.g.rows * site_.row_words;
  }

  const ExchangeSite& site_;
};

}  // namespace fastrnn::cuda
