// The kernels of each cell and type, for the drivers. The forms of a cell and a type are compiled
// in a translation unit of their own, which includes kernels_of.h.
#pragma once

#include "../cells/cells.h"
#include "args.h"
#include "launch.h"

namespace fastrnn::cuda {

// How a type's products are computed; float32's as torch's flag for TF32 says.
enum class Arithmetic { kTensorCores, kFloat32 };

struct CellKernels {
  Kernel<StepArgs> step_forward[kMaxPhases], step_backward[kMaxPhases];
  // [Arithmetic][Exchange][log2 of tiles][backward]; null where there is none.
  Kernel<PersistentArgs> persistent[2][3][3][2];
};

template <class Cell, class T>
const CellKernels& kernels_of();

}  // namespace fastrnn::cuda
