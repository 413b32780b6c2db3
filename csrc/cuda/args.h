// What the cells' kernels take.
#pragma once

#include "../cells/layout.h"
#include "../scan.h"
#include "geometry.h"

namespace fastrnn::cuda {

struct PersistentArgs {
  ScanParams p;  // the schedule's arrays are the device's
  Geometry g;
  const void* weights[2];  // forward: W_hh [h blocks H, H]; backward: its transpose
  const float* gates;      // forward: W_ih x, [active rows, D, x blocks H]
  void* grads;             // backward: [active rows, D, a row of gradients]; see layout.h
  uint32_t* operands;      // GridExchange: [D][groups][2][rows][row_words]
  uint32_t* flags;         // GridExchange: [D][groups][ctas], 0
  bool whole_weights;      // rows of the weights are aligned to 16 bytes
};

// Of one step of one direction. "Computed in" means float32 for the 16-bit types.
struct StepArgs {
  ScanParams p;  // the schedule's arrays are the device's
  int direction;
  int states;
  int64_t t;
  int64_t rows;          // of the launch
  int64_t product_rows;  // backward: rows that product[0] has, which is of the step after

  // By operand, computed in. Forward: its product with the gates that multiply it, [rows, gates].
  // Backward: its gradient from these, [rows, size of the operand].
  const void* product[kMaxOperands];
  // Forward: the operands themselves, [B, size]; the first is h, as the step finds and leaves it.
  // Backward: where those from 1 on go once more, [active rows, D, size]; null: nowhere.
  void* operand[kMaxOperands];
  // By state, [B, size], computed in. Forward: the states but h. Backward: their gradients.
  void* carry[kMaxStates];
  const void* gates;  // forward: W_ih x, [active rows, D, x blocks H], computed in
  void* grads;        // backward: [active rows, D, a row of gradients]; see layout.h
  bool whole;         // packs of units are aligned in every tensor
};

}  // namespace fastrnn::cuda
