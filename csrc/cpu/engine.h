// What an instruction set offers: the two drivers, compiled for it.
#pragma once

#include <cstdint>
#include <functional>

#include "../scan.h"

namespace fastrnn::cpu {

// The caller's threads.
struct Pool {
  using Task = std::function<void(int64_t, int64_t)>;
  int threads;
  void (*run)(int64_t tasks, const Task& task);

  // Runs task(begin, end) over ranges that cover [0, tasks); in place where the work is too little
  // to wake threads for.
  void for_ranges(int64_t tasks, double flops, const Task& task) const {
    constexpr double kWorthwhile = 1.5e6;
    threads == 1 || tasks == 1 || flops < kWorthwhile ? task(0, tasks) : run(tasks, task);
  }
};

struct Engine {
  const char* name;
  void (*forward)(const ScanParams&, const Pool&);
  void (*backward)(const ScanParams&, const Pool&);
};

extern const Engine kBaselineEngine;
#if defined(__x86_64__)
extern const Engine kAvx2Engine;
extern const Engine kAvx512Engine;
#endif

}  // namespace fastrnn::cpu
