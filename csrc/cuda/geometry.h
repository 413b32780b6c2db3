// How a persistent kernel is laid out: a group of CTAs owns some batch rows of one direction for
// the whole sequence, each CTA of it owns some hidden units and keeps their weights on the chip.
// All that follows from these two choices is worked out here, once, on the host.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../cells/layout.h"
#include "places.h"

namespace fastrnn::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
// Packs of units that one thread takes care of in a step: what they load ahead is in registers.
inline constexpr int kPacks = 2;

// Weight fragments of 8 registers that a warp holds, of 255 registers a thread: what fits beside
// the sums of four tiles without spills. Without tensor cores a lane has four times as many sums.
inline constexpr int kTensorCoreFragments = 16, kFloat32Fragments = 11;

// How the CTAs of a group hand each other the operand of the next step's product.
enum class Exchange { kLocal, kCluster, kGrid };

// Whether a cell has persistent kernels: these have one product in a step, and exchange one
// operand.
constexpr bool can_persist(const CellLayout& cell) { return cell.phases == 1 && !cell.takes_x(); }

// What a step multiplies: forward, the gates' weights [G units, H] by h; backward, the columns
// [units, G H] of the same by the gates' gradients. G counts the gates that multiply h.
struct Recurrence {
  int gates = 1, states = 1;
  int vectors = 0;  // biases and own weights that a unit has
  int64_t hidden_size = 1;
  bool backward = false;
  int element_size = 4;                  // of the operand: 2 or 4
  int fragments = kTensorCoreFragments;  // that a warp holds

  constexpr int pack() const { return 4 / element_size; }
  constexpr int row_gates() const { return backward ? 1 : gates; }
  constexpr int depth_gates() const { return backward ? gates : 1; }
};

// The vectors of a unit: the biases of all gates, which forward alone adds, and its own weights.
constexpr int count_biases(const CellLayout& cell, bool backward) {
  return backward ? 0 : cell.phase[0].gates;
}
constexpr int count_vectors(const CellLayout& cell, bool backward) {
  return count_biases(cell, backward) + cell.weights;
}

struct Geometry {
  int ctas = 1;    // of a group
  int units = 8;   // of a CTA, a multiple of 8
  int rows = 1;    // of a group
  int groups = 1;  // of a direction
  int tiles = 4;   // of 16 weight rows each, that a warp multiplies

  int weight_rows = 0;    // of a CTA
  int padded_hidden = 0;  // of all CTAs: the operand's length per gate
  int chunks = 0;         // of the depth, 64 bytes each
  int stride = 0;         // of an operand row, in words
  int warp_rows = 0;      // warps by rows of the weights
  int slices = 0;         // warps by depth
  int chunks_per_slice = 0;
  int spilled = 0;         // chunks of a slice in shared memory
  int partial_stride = 0;  // of a row of sums, in floats
  int operand_slots = 1;

  // Offsets in shared memory, in bytes.
  int partials = 0, carry = 0, vectors = 0, places = 0, spill = 0, barriers = 0, shared_memory = 0;

  FRNN_HD int padded_rows() const { return (rows + 7) / 8 * 8; }
  constexpr int row_words(const Recurrence& p) const {
    return padded_hidden * p.depth_gates() / p.pack();
  }
};

constexpr int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// Completes what ctas, units, rows and tiles leave open.
inline Geometry make_geometry(const Recurrence& p, Exchange exchange, int ctas, int rows, int tiles,
                              int64_t batch) {
  Geometry g;
  g.ctas = ctas, g.rows = rows, g.tiles = tiles;
  g.groups = ceil_div(batch, rows);
  g.units = ceil_div(ceil_div(p.hidden_size, ctas), 8) * 8;
  g.weight_rows = p.row_gates() * g.units;
  g.padded_hidden = g.units * ctas;
  g.chunks = ceil_div(int64_t(g.padded_hidden) * p.depth_gates(), 16 * p.pack());
  // An odd number of chunks: eight lanes that read 16 bytes of two rows meet all banks once.
  g.stride = (g.chunks | 1) * 16;
  g.warp_rows = ceil_div(g.weight_rows, 16 * tiles);
  if (g.warp_rows > kWarps) return g;  // it does not fit, and its sizes might not fit an int
  g.slices = std::max(1, std::min(kWarps / std::max(1, g.warp_rows), g.chunks));
  g.chunks_per_slice = ceil_div(g.chunks, g.slices);
  g.slices = ceil_div(g.chunks, g.chunks_per_slice);  // none is empty
  g.spilled = std::max(0, g.chunks_per_slice - p.fragments / tiles);
  // 4 more than a multiple of 16: the lanes of a tile store its sums into 32 different banks.
  g.partial_stride = ceil_div(g.weight_rows, 16) * 16 + 4;
  g.operand_slots = exchange == Exchange::kCluster ? 2 : 1;

  int offset = g.operand_slots * g.padded_rows() * g.stride * 4;
  auto place = [&](int& at, int bytes) {
    at = offset;
    offset += (bytes + 15) / 16 * 16;
  };
  place(g.partials, g.slices * g.padded_rows() * g.partial_stride * 4);
  place(g.carry, p.states * rows * g.units * 4);
  place(g.vectors, p.vectors * g.units * 4);
  place(g.places, rows * int(sizeof(RowPlace)));
  place(g.spill, g.warp_rows * g.slices * g.spilled * tiles * 1024);
  place(g.barriers, 2 * 8);
  g.shared_memory = offset;
  return g;
}

inline bool fits(const Recurrence& p, const Geometry& g, int shared_memory) {
  return g.warp_rows <= kWarps && g.shared_memory <= shared_memory &&
         g.units / p.pack() * g.rows <= kThreads * kPacks;
}

}  // namespace fastrnn::cuda
