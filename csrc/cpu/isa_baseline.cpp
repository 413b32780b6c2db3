// SSE2 on x86-64, NEON on aarch64: what the compiler takes when nothing is asked of it.
#include "isa.h"

namespace fastrnn::cpu {
const Engine kBaselineEngine = kEngine<Baseline>;
}
