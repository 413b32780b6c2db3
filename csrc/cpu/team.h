// Threads that share the hidden units of the same rows, and wait for each other after every phase.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "crowd.h"
#include "engine.h"
#include "slice.h"

namespace fastrnn::cpu {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What a team does is a sequence of stages, each of which has a share for every member. A stage
// begins when all shares of the one before are done. Its shares are claimed, so that nobody waits
// for a thread that is not running: the others do its share.
class Team {
 public:
  explicit Team(int64_t shares) : claimed_(shares) {}

  int64_t size() const { return int64_t(claimed_.size()); }

  // Whether a thread may take a share of its own; not if another one does all of the team's work.
  bool join() {
    int nobody = kNobody;
    return taken_.compare_exchange_strong(nobody, kMembers) || nobody == kMembers;
  }
  // Whether nobody has begun the team's work, so that the caller shall do all of it.
  bool take_over() {
    int nobody = kNobody;
    return taken_.compare_exchange_strong(nobody, kOne);
  }

  // Whether the caller shall do `share` of `stage`. Stages count from 1.
  bool claim(int64_t share, int32_t stage) {
    int32_t before = stage - 1;
    return claimed_[share].stage.compare_exchange_strong(before, stage, std::memory_order_acq_rel);
  }
  // A share of `stage` is done.
  void finish(int32_t stage) {
    const int64_t done = done_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (done == stage * size()) done_.notify_all();
  }
  bool is_done(int32_t stage) const {
    return done_.load(std::memory_order_acquire) >= stage * size();
  }
  // Sleeps until it is.
  void wait(int32_t stage) const {
    for (int64_t seen; (seen = done_.load(std::memory_order_acquire)) < stage * size();) {
      done_.wait(seen, std::memory_order_acquire);
    }
  }

 private:
  struct alignas(64) Claim {
    std::atomic<int32_t> stage{0};
  };
  enum { kNobody, kMembers, kOne };

  alignas(64) std::atomic<int64_t> done_{0};  // shares, of all stages
  std::atomic<int> taken_{kNobody};
  std::vector<Claim> claimed_;  // the latest stage, by share
};

// One thread's place in a team. A thread that has all shares, as when the pool runs serially, does
// them as one.
class Member {
 public:
  Member(Team& team, const Slice& own)
      : team_(own.last_share - own.first_share < own.shares ? &team : nullptr), own_(own) {}

  // What the thread runs if no other is late. Rows and direction are the team's.
  const Slice& own() const { return own_; }

  // The team's next stage: work(slice) for all of its shares. Returns when all are done.
  template <class Work>
  void together(Work work) {
    if (!team_) return work(own_);
    ++stage_;
    for (int64_t share = own_.first_share; share < own_.last_share; ++share) run(share, work);
    for (int spins = 0; !team_->is_done(stage_); ++spins) {
      if (spins == kPatience) {
        for (int64_t share = 0; share < team_->size(); ++share) run(share, work);
      }
      if (spins == kSpins) return sleep();
      pause();
    }
  }

 private:
  // A thread that runs claims its share at once. One that has not done so by now may be one of
  // many that want the processor.
  static constexpr int kPatience = 200;  // 4 to 9 us
  static constexpr int kSpins = 2000;

  template <class Work>
  void run(int64_t share, Work& work) {
    if (!team_->claim(share, stage_)) return;
    work(own_.share(share));
    team_->finish(stage_);
  }

  void sleep() {
    const Crowd::Clock::time_point begun = Crowd::Clock::now();
    team_->wait(stage_);
    Crowd::of_this_thread().add_sleep(Crowd::Clock::now() - begun);
  }

  Team* team_;
  const Slice own_;
  int32_t stage_ = 0;
};

// Calls run(member) on the pool's threads, for slices that cover the scan. A thread that is through
// takes over the teams that nobody has begun.
template <class Run>
void run_teams(const ScanParams& p, const Plan& plan, const Pool& pool, double flops, Run run) {
  const int64_t shares = plan.unit_groups, count = count_teams(p, plan);
  std::deque<Team> teams;
  for (int64_t i = 0; i < count; ++i) teams.emplace_back(shares);
  auto slice = [&](int64_t team, int64_t first_share, int64_t last_share) {
    const Range rows = row_group(p, plan, team % plan.row_groups);
    return Slice{.p = p,
                 .index = team * shares + first_share,
                 .team = team,
                 .direction = int(team / plan.row_groups),
                 .row = rows.begin,
                 .rows = rows.end - rows.begin,
                 .first_share = first_share,
                 .last_share = last_share,
                 .shares = shares};
  };
  auto run_slice = [&](const Slice& own) {
    Member member(teams[own.team], own);
    run(member);
  };
  pool.for_ranges(count * shares, flops, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin, stop; at < end; at = stop) {
      const int64_t team = at / shares;
      stop = std::min(end, (team + 1) * shares);
      const int64_t first = at - team * shares, last = stop - team * shares;
      const bool all = last - first == shares;
      if (all ? teams[team].take_over() : teams[team].join()) run_slice(slice(team, first, last));
    }
    for (int64_t team = 0; team < count; ++team) {
      if (teams[team].take_over()) run_slice(slice(team, 0, shares));
    }
  });
}

}  // namespace fastrnn::cpu
