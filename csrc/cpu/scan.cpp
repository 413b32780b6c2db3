// The CPU backend of the ops: picks the instruction set.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>
#include <vector>

#include "../ops.h"
#include "engine.h"
#include "threads.h"

namespace fastrnn::cpu {
namespace {

#if defined(__x86_64__)
// Clang 16 does not know it as a feature that one can ask for. The system saves AVX's registers
// where it has AVX2, which is asked for beside it.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// The engines that this machine can run, the best first.
const std::vector<const Engine*>& engines() {
  static const std::vector<const Engine*> all = [] {
    std::vector<const Engine*> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      found.push_back(&kAvx512Engine);
      const bool vnni = __builtin_cpu_supports("avx512vnni");
      if (vnni) found.push_back(&kAvx512VnniEngine);
      // Ahead of the others only where it is faster; see arch.h.
      if (vnni && __builtin_cpu_supports("avx512bf16")) {
        found.insert(__builtin_cpu_is("intel") ? found.end() : found.begin(), &kAvx512Bf16Engine);
      }
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
      found.push_back(&kAvx2Engine);
    }
#endif
    found.push_back(&kBaselineEngine);
    return found;
  }();
  return all;
}

std::string names() {
  std::string list;
  for (const Engine* engine : engines())
    list += (list.empty() ? "" : " ") + std::string(engine->name);
  return list;
}

// FASTRNN_ISA overrides the choice; it is read at every call so that tests can change it.
const Engine& engine_or(const Engine& best) {
  const char* wanted = std::getenv("FASTRNN_ISA");
  if (!wanted || !*wanted) return best;
  for (const Engine* engine : engines()) {
    if (std::string_view(engine->name) == wanted) return *engine;
  }
  FRNN_CHECK(false, "FASTRNN_ISA is '", wanted, "', but this machine has: ", names());
}

const Engine& engine() { return engine_or(*engines().front()); }

const Engine& int8_engine() {
#if defined(__x86_64__)
  for (const Engine* engine : engines()) {
    if (engine == &kAvx512VnniEngine) return engine_or(*engine);
  }
#endif
  return engine();
}

// Runs scans that know nothing of each other: side by side, each on one thread, unless that leaves
// more than half of the threads idle.
void run_each(const std::vector<const ScanParams*>& scans,
              void (*run)(const ScanParams&, const Pool&)) {
  const Pool pool = torch_threads(), one{1, nullptr};
  const int64_t count = int64_t(scans.size());
  if (2 * count <= pool.threads) {
    for (const ScanParams* p : scans) run(*p, pool);
    return;
  }
  const ScanParams& first = *scans[0];
  const double flops = 2. * count * first.schedule.active_rows() * first.directions *
                       kCells[first.cell].layout.h_blocks * first.hidden_size *
                       (first.input_size + first.output_size);
  pool.share_out(count, flops, [&](auto next) {
    for (int64_t i; (i = next()) >= 0;) run(*scans[i], one);
  });
}

struct Backend {
  Backend(const Tensor& /*x*/, bool /*allow_tf32*/) {}

  using Each = std::vector<const ScanParams*>;

  void forward(const ScanParams& p) const { engine().forward(p, torch_threads()); }
  void backward(const ScanParams& p) const { engine().backward(p, torch_threads()); }
  void forward_each(const Each& scans) const { run_each(scans, engine().forward); }
  void backward_each(const Each& scans) const { run_each(scans, engine().backward); }
  void forward_int8(const ScanParams& p) const { int8_engine().forward_int8(p, torch_threads()); }
};

// The instruction set taken, a colon, and all that this machine has.
std::string cpu_isas() { return std::string(engine().name) + ": " + names(); }

}  // namespace
}  // namespace fastrnn::cpu

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("scan", TORCH_BOX(&fastrnn::scan<fastrnn::cpu::Backend>));
  m.impl("scan_int8", TORCH_BOX(&fastrnn::scan_int8<fastrnn::cpu::Backend>));
  m.impl("scan_backward", TORCH_BOX(&fastrnn::scan_backward<fastrnn::cpu::Backend>));
  m.impl("scan_each", TORCH_BOX(&fastrnn::scan_each<fastrnn::cpu::Backend>));
  m.impl("scan_each_backward", TORCH_BOX(&fastrnn::scan_each_backward<fastrnn::cpu::Backend>));
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CompositeExplicitAutograd, m) {
  m.impl("cpu_isas", TORCH_BOX(&fastrnn::cpu::cpu_isas));
}
