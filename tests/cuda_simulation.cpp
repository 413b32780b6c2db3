// The CUDA backend, compiled for the simulation: the same sources, as ops of a library of their
// own. Built by tests/simulated_cuda.py, and by nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda_simulation.h"

// The sources themselves.
#include "cuda/backward.cpp"
#include "cuda/forward.cpp"
#include "cuda/run.cpp"
#include "cuda/scan.h"
#include "cuda/sequence.cu"

STABLE_TORCH_LIBRARY(fastrnn_simulation, m) {
  m.def(
      "scan(str cell, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, "
      "Tensor? batch_sizes, Tensor? resets, bool bidirectional, bool batch_first, bool save, "
      "bool allow_tf32=False, bool all_states=False) -> Tensor[]");
  m.def(
      "scan_backward(Tensor?[] grads, str cell, Tensor x, Tensor[] states, Tensor[] weights, "
      "Tensor? lengths, Tensor? batch_sizes, Tensor? resets, bool bidirectional, "
      "bool batch_first, Tensor[] outputs, bool needs_x, bool needs_states, bool needs_weights, "
      "bool allow_tf32=False) -> Tensor[]");
  m.def(
      "scan_each(str cell, Tensor[] x, Tensor[] states, Tensor[] weights, Tensor?[] lengths, "
      "Tensor?[] batch_sizes, Tensor?[] resets, bool bidirectional, bool batch_first, bool save, "
      "bool allow_tf32=False, bool all_states=False) -> Tensor[]");
  m.def(
      "scan_each_backward(Tensor?[] grads, str cell, Tensor[] x, Tensor[] states, "
      "Tensor[] weights, Tensor?[] lengths, Tensor?[] batch_sizes, Tensor?[] resets, "
      "bool bidirectional, bool batch_first, Tensor[] outputs, bool needs_x, bool needs_states, "
      "bool needs_weights, bool allow_tf32=False) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn_simulation, CPU, m) {
  m.impl("scan", TORCH_BOX(&fastrnn::scan<fastrnn::cuda::Backend>));
  m.impl("scan_backward", TORCH_BOX(&fastrnn::scan_backward<fastrnn::cuda::Backend>));
  m.impl("scan_each", TORCH_BOX(&fastrnn::scan_each<fastrnn::cuda::Backend>));
  m.impl("scan_each_backward", TORCH_BOX(&fastrnn::scan_each_backward<fastrnn::cuda::Backend>));
}

namespace {

namespace py = pybind11;
using namespace fastrnn::cuda;

// ---- what the simulation itself must see -------------------------------------------------------

struct Probe {
  int threads;
  float* out;
};

// Each thread reads what its neighbour writes, with or without a barrier between.
template <bool kBarrier>
void neighbours(Probe p) {
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  const int i = threadIdx.x;
  shared[i] = float(i);
  if (kBarrier) __syncthreads();
  p.out[i] = shared[(i + 1) % p.threads];
}

void half_of_the_threads_wait(Probe) {
  if (threadIdx.x % 2) __syncthreads();
}

void wait_for_a_flag_that_nobody_sets(Probe p) {
  uint32_t flag = 0;
  while (read_flag(&flag) == 0) {
  }
}

void write_beyond_the_shared_memory(Probe p) { dynamic_shared()[4 * p.threads] = 1; }

// A word that arrives at the other CTA of the cluster; it is read before its barrier says so, or
// after.
template <bool kWait>
void message(Probe p) {
  auto* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
  auto* barrier = reinterpret_cast<MessageBarrier*>(shared + 2);
  const uint32_t rank = blockIdx.x;
  if (threadIdx.x == 0) {
    shared[0] = 0;
    barrier->init();
    barrier->expect(4);
  }
  cluster_barrier();
  if (threadIdx.x == 0) send(shared, 7, barrier, 1 - rank);
  if (kWait) barrier->wait(0);
  if (threadIdx.x == 0) p.out[rank] = float(shared[0]);
  cluster_barrier();
  barrier->wait(0);
}

std::vector<float> probe(const std::string& name, int threads) {
  const std::map<std::string, Kernel<Probe>> kernels = {
      {"neighbours with a barrier", neighbours<true>},
      {"neighbours without a barrier", neighbours<false>},
      {"half of the threads wait", half_of_the_threads_wait},
      {"a flag that nobody sets", wait_for_a_flag_that_nobody_sets},
      {"a write beyond the shared memory", write_beyond_the_shared_memory},
      {"a message that is waited for", message<true>},
      {"a message that is not waited for", message<false>}};
  std::vector<float> out(threads);
  const bool cluster = name.find("message") != std::string::npos;
  launch(kernels.at(name),
         LaunchShape{.blocks = cluster ? 2 : 1,
                     .threads = threads,
                     .shared_memory = 4 * threads,
                     .cluster = cluster ? 2 : 1},
         0, Probe{threads, out.data()});
  return out;
}

// ---- the planner -------------------------------------------------------------------------------

py::object plan(const std::string& path, int gates, int64_t hidden_size, int64_t batch,
                int directions, bool backward, int element_size, bool tensor_cores, int arch,
                int multiprocessors, int shared_memory) {
  const Recurrence step{.gates = gates,
                        .states = 2,
                        .vectors = (backward ? 0 : gates + 1) + 3,
                        .hidden_size = hidden_size,
                        .backward = backward,
                        .element_size = element_size,
                        .fragments = tensor_cores ? kTensorCoreFragments : kFloat32Fragments};
  Limits limits{arch, multiprocessors, shared_memory, {}, true};
  // On an H200 a cluster of 8 does not find 16 places among 132 multiprocessors.
  if (arch >= 90) limits.clusters[0] = 66, limits.clusters[1] = 30, limits.clusters[2] = 15;
  const auto found = plan_path({step, batch, directions}, Path(path.at(0)), limits, tensor_cores);
  if (!found) return py::none();
  const Geometry& g = found->geometry;
  return py::dict(py::arg("ctas") = g.ctas, py::arg("units") = g.units, py::arg("rows") = g.rows,
                  py::arg("groups") = g.groups, py::arg("tiles") = g.tiles,
                  py::arg("weight_rows") = g.weight_rows, py::arg("warp_rows") = g.warp_rows,
                  py::arg("slices") = g.slices, py::arg("chunks") = g.chunks,
                  py::arg("chunks_per_slice") = g.chunks_per_slice, py::arg("spilled") = g.spilled,
                  py::arg("shared_memory") = g.shared_memory, py::arg("step") = found->step);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  auto& machine = simulation::machine();
  m.def("configure", [&](uint64_t seed, int resident, int64_t step_limit, int arch) {
    machine.seed = seed;
    machine.resident = resident;
    machine.step_limit = step_limit;
    machine.arch = arch;
    machine.refuse_cooperative = false;
    machine.refused = machine.persistent = 0;
  });
  m.def("refuse_cooperative", [&](bool refuse) { machine.refuse_cooperative = refuse; });
  m.def("persistent_launches", [&] { return machine.persistent; });
  m.def("refused_launches", [&] { return machine.refused; });
  m.def("probe", probe);
  m.def("plan", plan, py::kw_only(), py::arg("path"), py::arg("gates"), py::arg("hidden_size"),
        py::arg("batch"), py::arg("directions") = 1, py::arg("backward") = false,
        py::arg("element_size") = 2, py::arg("tensor_cores") = true, py::arg("arch") = 90,
        py::arg("multiprocessors") = 132, py::arg("shared_memory") = 232448);
}
