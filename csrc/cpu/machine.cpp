#include "machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

namespace fastrnn::cpu {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

// What a control group may use, in CPUs: its quota of microseconds in each period.
double quota_of(const std::string& quota, const std::string& period) {
  char* end = nullptr;
  const double used = std::strtod(quota.c_str(), &end), all = std::atof(period.c_str());
  return end != quota.c_str() && used > 0 && all > 0 ? used / all : kNoQuota;
}

// Of a group of version 2 and of all groups that it is in.
double quota_v2(const std::string& root, std::string group) {
  double least = kNoQuota;
  for (;;) {
    std::string quota, period;
    if (std::ifstream(root + group + "/cpu.max") >> quota >> period) {
      least = std::min(least, quota_of(quota, period));
    }
    if (group.empty()) return least;
    group.resize(group.rfind('/'));
  }
}

double quota_v1(const std::string& folder) {
  std::string quota, period;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return quota_of(quota, period);
}

double find_quota() {
  const std::string root = "/sys/fs/cgroup";
  double least = quota_v1(root + "/cpu");
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::/", 0) != 0) continue;
    std::string group = line.substr(3);
    if (group == "/") group.clear();
    least = std::min(least, quota_v2(root, group));
  }
  return least;
}

int find_cpus() {
  cpu_set_t set;
  const bool known = sched_getaffinity(0, sizeof set, &set) == 0;
  const double cpus = known ? CPU_COUNT(&set) : double(sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, int(std::ceil(std::min(cpus, find_quota()))));
}

int64_t find_l2() {
  constexpr int64_t kUsual = 512 << 10;
#ifdef _SC_LEVEL2_CACHE_SIZE
  const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : kUsual;
#else
  return kUsual;
#endif
}

}  // namespace

int usable_cpus() {
  static const int cpus = find_cpus();
  return cpus;
}

int forced_cpus() {
  static const int cpus = [] {
    const char* text = std::getenv("FASTRNN_CPUS");
    if (!text || !*text) return 0;
    char* end = nullptr;
    const long given = std::strtol(text, &end, 10);
    if (*end || given < 1 || given > std::numeric_limits<int>::max()) {
      throw std::runtime_error(std::string("FASTRNN_CPUS must be a number from 1 on, got '") +
                               text + "'");
    }
    return int(given);
  }();
  return cpus;
}

int64_t l2_bytes() {
  static const int64_t bytes = find_l2();
  return bytes;
}

}  // namespace fastrnn::cpu
