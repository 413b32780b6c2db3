// What the instruction sets share: included before a target region opens, so that none of it is
// compiled for an instruction set that the machine may lack.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cells/layout.h"
#include "arch.h"
#include "buffer.h"
#include "crowd.h"
#include "engine.h"
#include "int8_products.h"
#include "machine.h"
#include "matrix_part.h"
#include "pack.h"
#include "plan.h"
#include "slice.h"
#include "team.h"
