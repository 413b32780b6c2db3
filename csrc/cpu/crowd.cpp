#include "crowd.h"

namespace fastrnn::cpu {

Crowd& Crowd::of_this_thread() {
  static thread_local Crowd crowd;
  return crowd;
}

}  // namespace fastrnn::cpu
