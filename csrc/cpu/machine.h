// What the system says of the machine, asked once.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

// How many CPUs the process may use at once: those that it may be scheduled on, or, in a control
// group with a quota, as many as use it up. At least 1.
int usable_cpus();

// FASTRNN_CPUS, as it was at the first call: as many threads as torch has are used up to this
// number, whatever the machine has and however busy it is. 0 if it is not set. Throws
// std::runtime_error if it is no number from 1 on.
int forced_cpus();

// The bytes of a core's second-level cache, or 512 KB where the system does not say.
int64_t l2_bytes();

}  // namespace fastrnn::cpu
