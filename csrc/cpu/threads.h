// The threads that the engine runs on: torch's.
#pragma once

#include "engine.h"

namespace fastrnn::cpu {

// As many as torch has, but no more than CPUs that the process may use, and fewer while the machine
// is crowded.
Pool torch_threads();

}  // namespace fastrnn::cpu
