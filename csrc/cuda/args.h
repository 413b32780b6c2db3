// What the cells' kernels take.
#pragma once

#include "../scan.h"
#include "geometry.h"

namespace fastrnn::cuda {

struct PersistentArgs {
  ScanParams p;  // the schedule's arrays are the device's
  Geometry g;
  const void* weights[2];  // forward: W_hh [G H, H]; backward: its transpose [H, G H]
  const float* gates;      // forward: W_ih x, [rows that run, D, G H]
  void* dx;                // backward: the gates' gradients, [rows that run, D, G H]
  void* dr;                // the same where the cell is additive
  uint32_t* operands;      // GridExchange: [D][groups][2][rows][row_words]
  uint32_t* flags;         // GridExchange: [D][groups][ctas], 0
  bool whole_weights;      // rows of the weights are aligned to 16 bytes
};

struct StepArgs {
  ScanParams p;  // the schedule's arrays are the device's
  int direction;
  int64_t t, rows;
  int64_t product_rows;  // backward: rows that the product has; the others have none
  // forward: W_hh h, [rows, G H]; backward: dr R of the step after, [.., H]; computed in
  const void* product;
  const void* gates;  // forward: W_ih x, [rows that run, D, G H], computed in
  void* h;            // forward: the next operand [B, P]; with a projection, hidden [B, H]
  void* carry;        // [states][B][H], computed in
  void* dx;           // backward: the gates' gradients, [rows that run, D, G H]
  void* dr;           // the same where the cell is additive
  bool whole;         // packs of units are aligned in every tensor
};

}  // namespace fastrnn::cuda
