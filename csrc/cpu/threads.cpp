#include "threads.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "crowd.h"
#include "machine.h"

#ifdef FASTRNN_STD_THREADS
#include <thread>
#include <vector>
#endif

namespace fastrnn::cpu {
namespace {

// Each thread has a range of tasks, and the caller the first one.
void run_in_parallel(int64_t tasks, const Pool::Task& task) {
#ifdef FASTRNN_STD_THREADS  // ThreadSanitizer does not see how OpenMP's threads wait
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < tasks; ++i) threads.emplace_back([&task, i] { task(i, i + 1); });
  task(0, 1);
  for (std::thread& thread : threads) thread.join();
#else
  torch::stable::parallel_for(0, tasks, 1, task);
#endif
}

void run_and_time(int64_t tasks, const Pool::Task& task) {
  using Clock = Crowd::Clock;
  Crowd& crowd = Crowd::of_this_thread();
  crowd.take_sleep();
  const Clock::time_point begun = Clock::now();
  Clock::time_point through = begun;
  run_in_parallel(tasks, [&](int64_t begin, int64_t end) {
    task(begin, end);
    if (begin == 0) through = Clock::now();
  });
  const Clock::time_point ended = Clock::now();
  crowd.note(ended - through + crowd.take_sleep(), ended - begun);
}

}  // namespace

Pool torch_threads() {
  const int torch = int(torch::stable::get_num_threads());
  if (const int wanted = forced_cpus()) return {std::min(torch, wanted), run_in_parallel};
  return {Crowd::of_this_thread().threads(std::min(torch, usable_cpus())), run_and_time};
}

}  // namespace fastrnn::cpu
