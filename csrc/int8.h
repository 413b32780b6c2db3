// How weights of int8 lie, as fastrnn/quantization.py packs them; the same for every instruction
// set. A matrix is [unit blocks, gates, bytes]: a block has 16 units, and its bytes for a gate are
// the int8 of four neighbouring columns of each unit, [ceil(depth / 4)][16][4], and behind them the
// sum of each unit's row, [16] of int32. What does not exist is 0.
#pragma once

#include <cstdint>

namespace fastrnn {

inline constexpr int kInt8Units = 16;
inline constexpr int kInt8Columns = 4;
inline constexpr int kInt8Bytes = kInt8Units * kInt8Columns;  // also of the sums
// Columns whose products int32 can sum up.
inline constexpr int64_t kInt8Longest = INT32_MAX / (127 * 127);

constexpr int64_t int8_quads(int64_t depth) { return (depth + kInt8Columns - 1) / kInt8Columns; }
constexpr int64_t int8_blocks(int64_t units) { return (units + kInt8Units - 1) / kInt8Units; }
// Of a gate of a block.
constexpr int64_t int8_gate_bytes(int64_t depth) { return (int8_quads(depth) + 1) * kInt8Bytes; }

}  // namespace fastrnn
