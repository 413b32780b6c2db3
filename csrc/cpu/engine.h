// What an instruction set offers: the drivers, compiled for it.
#pragma once

#include <algorithm>
#include <atomic>
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

  // Calls worker(next) on every thread, where next() takes the next one of [0, tasks), or -1 if
  // none is left: for tasks of different sizes, and where a thread may be late.
  template <class Worker>
  void share_out(int64_t tasks, double flops, Worker worker) const {
    std::atomic<int64_t> taken{0};
    for_ranges(std::min<int64_t>(threads, tasks), flops, [&](int64_t, int64_t) {
      worker([&] {
        const int64_t task = taken.fetch_add(1, std::memory_order_relaxed);
        return task < tasks ? task : -1;
      });
    });
  }
};

struct Engine {
  const char* name;
  void (*forward)(const ScanParams&, const Pool&);
  void (*backward)(const ScanParams&, const Pool&);
  void (*forward_int8)(const ScanParams&, const Pool&);  // with weights of int8
};

extern const Engine kBaselineEngine;
#if defined(__x86_64__)
extern const Engine kAvx2Engine;
extern const Engine kAvx512Engine;
extern const Engine kAvx512VnniEngine;
extern const Engine kAvx512Bf16Engine;
#endif

}  // namespace fastrnn::cpu
