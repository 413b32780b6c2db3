// Threads that share the hidden units of the same rows, and meet after every phase.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace fastrnn::cpu {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct alignas(64) Team {
  std::atomic<int64_t> arrived{0};
};

// One thread's place in a team of `size` shares, of which it holds `shares`. A thread that holds
// all of them, as when the pool runs serially, never waits. Otherwise all threads of a team must
// run at once, as those of OpenMP do, which all releases of PyTorch for Linux have.
class Member {
 public:
  Member(Team& team, int64_t shares, int64_t size) : team_(team), shares_(shares), size_(size) {}

  void wait() {
    if (shares_ == size_) return;
    target_ += size_;
    team_.arrived.fetch_add(shares_, std::memory_order_acq_rel);
    for (int spins = 0; team_.arrived.load(std::memory_order_acquire) < target_; ++spins) {
      spins < kSpins ? pause() : std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpins = 2000;  // then let others run: the machine may be oversubscribed
  Team& team_;
  int64_t shares_, size_, target_ = 0;
};

}  // namespace fastrnn::cpu
