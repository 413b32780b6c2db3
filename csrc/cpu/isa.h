// One instruction set's engine. Included inside a target region, after everything of the standard
// library and every function that the sets share.
#pragma once

#include "backward.h"
#include "forward.h"
#include "int8_tiles.h"
#include "int8_weights.h"

namespace fastrnn::cpu {

template <class Arch, class T>
using FloatForward = Forward<Arch, T, ForwardWeights<Arch, T>>;

template <class Arch, template <class, class> class Driver>
void run(const ScanParams& p, const Pool& pool) {
  switch (p.type) {
    case Type::kFloat32: return Driver<Arch, float>(p, pool).run();
    case Type::kFloat64: return Driver<Arch, double>(p, pool).run();
    case Type::kBFloat16: return Driver<Arch, bf16>(p, pool).run();
    case Type::kFloat16: return Driver<Arch, f16>(p, pool).run();
  }
}

template <class Arch, class By>
void run_int8(const ScanParams& p, const Pool& pool) {
  switch (p.type) {
    case Type::kFloat32: return Forward<Arch, float, Int8Weights<Arch, By>>(p, pool).run();
    case Type::kFloat64: return;  // the op takes none
    case Type::kBFloat16: return Forward<Arch, bf16, Int8Weights<Arch, By>>(p, pool).run();
    case Type::kFloat16: return Forward<Arch, f16, Int8Weights<Arch, By>>(p, pool).run();
  }
}

template <class Arch>
inline constexpr Engine kEngine = {Arch::kName, run<Arch, FloatForward>, run<Arch, Backward>,
                                   run_int8<Arch, Widening<Arch>>};

}  // namespace fastrnn::cpu
