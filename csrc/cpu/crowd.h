// How many threads pay where other programs want the same processors. All threads of a call wait
// for the last one: with a second program's threads on the machine, for a time slice of the
// scheduler, which can be a hundred times as long as the call.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

namespace fastrnn::cpu {

// What one calling thread has seen of it. Halves the threads for a while after a call that lost
// most of its time by waiting, for longer if it finds the same again when the while is over.
class Crowd {
 public:
  using Clock = std::chrono::steady_clock;

  static Crowd& of_this_thread();

  // How many of `wanted` threads the call that begins here takes.
  int threads(int wanted) {
    judge(std::exchange(lost_, {}), std::exchange(all_, {}));
    if (halvings_ == 0 || wanted == 1) return wanted;
    if (Clock::now() >= until_) --halvings_, until_ = Clock::now() + while_;
    return std::max(1, wanted >> halvings_);
  }

  // The caller waited for others for `lost` of the time that a part of the call took.
  void note(Clock::duration lost, Clock::duration all) { lost_ += lost, all_ += all; }

  // The caller slept for so long in a call, because others did not run.
  void add_sleep(Clock::duration slept) { slept_ += slept; }
  Clock::duration take_sleep() { return std::exchange(slept_, {}); }

 private:
  // A thread that slept between two calls is up to 1.7 ms late for the second one. One whose
  // processor has been taken away is late by the scheduler's slice, which is 3 ms and more.
  static constexpr std::chrono::milliseconds kLeast{2};
  static constexpr std::chrono::milliseconds kShortest{50}, kLongest{2000};

  // Of the call before.
  void judge(Clock::duration lost, Clock::duration all) {
    if (lost < kLeast || 2 * lost < all) return;
    const Clock::time_point now = Clock::now();
    const bool again = now < until_ + while_;
    while_ = again ? std::min<Clock::duration>(2 * while_, kLongest) : kShortest;
    halvings_ = std::min(halvings_ + 1, 16);
    until_ = now + while_;
  }

  Clock::duration lost_{}, all_{};
  int halvings_ = 0;
  Clock::duration while_ = kShortest, slept_{};
  Clock::time_point until_{};
};

}  // namespace fastrnn::cpu
