#include "run.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace fastrnn::cuda {
namespace {

// The paths that are known to be right on a GPU, and so are chosen by themselves wherever they are
// the fastest. FASTRNN_CUDA_PATH names others.
constexpr Path kTrusted[] = {Path::kStep};

const CellKernels& kernels_for(int cell, Type type) {
#define FRNN_CELL_KERNELS(name, Cell)                                                \
  {&kernels_of<Cell, float>, &kernels_of<Cell, double>, &kernels_of<Cell, BFloat16>, \
   &kernels_of<Cell, Half>},
  static constexpr const CellKernels& (*kAll[][4])() = {FRNN_CELLS(FRNN_CELL_KERNELS)};
#undef FRNN_CELL_KERNELS
  return kAll[cell][int(type)]();
}

ScalarType scalar_type(Type type) {
  constexpr ScalarType kAll[] = {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16,
                                 ScalarType::Half};
  return kAll[int(type)];
}

int64_t bytes_of(Type type) {
  constexpr int64_t kAll[] = {4, 8, 2, 2};
  return kAll[int(type)];
}

bool aligned(const void* data, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

// Whether packs of two 16-bit values, and of two floats, are aligned wherever a kernel looks.
bool all_whole(const ScanParams& p, const CellLayout& cell) {
  if (bytes_of(p.type) != 2) return true;
  bool whole = p.hidden_size % 2 == 0 && p.output_size % 2 == 0;
  auto check = [&](const void* data, int64_t stride, int64_t other_stride, int64_t size) {
    whole = whole && aligned(data, 2 * size) && stride % 2 == 0 && other_stride % 2 == 0;
  };
  for (const Sequence* s : {&p.y, &p.grad_y}) check(s->data, s->step_stride, s->row_stride, 2);
  if (cell.takes_x()) check(p.x.data, p.x.step_stride, p.x.row_stride, 2);
  for (int k = 0; k < kMaxStates; ++k) {
    for (const Sequence* s : {&p.steps[k], &p.grad_steps[k]}) {
      check(s->data, s->step_stride, s->row_stride, 4);
    }
    for (const State* s : {&p.initial[k], &p.last[k], &p.grad_last[k], &p.grad_initial[k]}) {
      check(s->data, s->direction_stride, s->row_stride, 2);
    }
  }
  for (const Weights& w : p.weights) {
    for (const void* vector : {w.bias_ih, w.bias_hh, w.peephole}) check(vector, 0, 0, 2);
  }
  check(p.saved, 0, 0, 2);
  return whole;
}

// Any will do: all take the same registers, and as much shared memory as they are given.
Kernel<PersistentArgs> cluster_kernel() {
  constexpr int kTensorCores = int(Arithmetic::kTensorCores), kCluster = int(Exchange::kCluster);
  return kernels_for(0, Type::kFloat16).persistent[kTensorCores][kCluster][2][0];
}

// The paths that a call may take: those that FASTRNN_CUDA_PATH names, or the trusted ones.
std::vector<Path> allowed_paths() {
  const char* wanted = std::getenv("FASTRNN_CUDA_PATH");
  if (!wanted || !*wanted) return {std::begin(kTrusted), std::end(kTrusted)};
  std::vector<Path> paths;
  for (const char* letter = wanted; *letter; ++letter) {
    FRNN_CHECK(std::string_view("FACG").find(*letter) != std::string_view::npos,
               "FASTRNN_CUDA_PATH is '", wanted, "', but the paths are F, A, C and G");
    paths.push_back(Path(*letter));
  }
  return paths;
}

}  // namespace

Run::Run(const ScanParams& params, const Call& call, bool backward)
    : p(params),
      s(params.schedule),
      call(call),
      cell(kCells[params.cell].layout),
      kernels(kernels_for(params.cell, params.type)),
      sequence(sequence_kernels(params.type)),
      gemm(call.device, scalar_type(params.type),
           params.type == Type::kFloat64 ? ScalarType::Double : ScalarType::Float),
      element(bytes_of(params.type)),
      compute(params.type == Type::kFloat64 ? 8 : 4),
      whole(all_whole(params, cell)),
      backward_(backward) {
  p.schedule = upload(s);
}

void* Run::allocate(int64_t bytes) {
  const std::array<int64_t, 1> size{bytes};
  memory_.push_back(torch::stable::empty(size, ScalarType::Byte, std::nullopt, call.device));
  return memory_.back().data_ptr();
}

void* Run::allocate_zeros(int64_t bytes) {
  void* data = allocate(bytes);
  torch::stable::zero_(memory_.back());
  return data;
}

Schedule Run::upload(const Schedule& host) {
  if (!host.firsts) return host;
  Schedule device = host;
  auto copy = [&](const int64_t*& array, int64_t count) {
    if (!array) return;
    const int64_t* from = array;
    int64_t* to = static_cast<int64_t*>(allocate(count * sizeof(int64_t)));
    for (int64_t begin = 0; begin < count; begin += UploadArgs::kCount) {
      UploadArgs args;
      args.to = to + begin;
      args.count = int(std::min<int64_t>(UploadArgs::kCount, count - begin));
      std::copy(from + begin, from + begin + args.count, args.values);
      launch(upload_kernel(), args.count, args);
    }
    array = to;
  };
  copy(device.firsts, host.steps + 1);
  copy(device.lengths, host.batch);
  copy(device.order, host.batch);
  return device;
}

bool Run::is_compact(const Sequence& sequence, int64_t features) const {
  if (s.packed) return sequence.row_stride == features;
  if (s.firsts) return false;
  return (s.batch == 1 || sequence.row_stride == features) &&
         (s.steps == 1 || sequence.step_stride == s.batch * features);
}

Matrix Run::compact_x() {
  const int64_t features = p.input_size;
  Matrix x{p.x.data, s.active_rows(), features, features};
  if (!is_compact(p.x, features)) {
    x.data = allocate(s.active_rows() * features * element);
    launch_rows(sequence.gather, RowsArgs{p.schedule, p.x, x.data, features});
  }
  return x;
}

Matrix Run::input_weights() {
  const int64_t features = p.input_size;
  Matrix all{p.weights[0].ih, p.directions * x_rows(), features, features};
  if (p.directions == 1) return all;
  const int64_t bytes = x_rows() * features * element;
  all.data = allocate(p.directions * bytes);
  for (int64_t d = 0; d < p.directions; ++d) {
    gemm.copy({row(all.data, d, bytes), x_rows(), features, features},
              {p.weights[d].ih, x_rows(), features, features});
  }
  return all;
}

Arithmetic Run::arithmetic() const {
  return p.type == Type::kFloat32 && !call.allow_tf32 ? Arithmetic::kFloat32
                                                      : Arithmetic::kTensorCores;
}

std::optional<Plan> Run::persistent_plan() const {
  const std::vector<Path> allowed = allowed_paths();
  const bool only_steps = allowed == std::vector<Path>{Path::kStep};
  if (only_steps) return std::nullopt;  // without asking the device for more than that takes
  const bool tensor_cores = arithmetic() == Arithmetic::kTensorCores;
  const Work work{{.gates = cell.h_blocks,
                   .states = cell.states,
                   .vectors = count_vectors(cell, backward_),
                   .hidden_size = p.hidden_size,
                   .backward = backward_,
                   .element_size = int(element),
                   .fragments = tensor_cores ? kTensorCoreFragments : kFloat32Fragments},
                  s.batch,
                  int(p.directions)};
  const Limits limits = limits_of(call.device.index(), cluster_kernel());
  std::optional<Plan> best;
  for (Path path : allowed) {
    const bool possible =
        path == Path::kStep || (can_persist(cell) && whole && p.type != Type::kFloat64);
    const auto plan =
        possible ? plan_path(work, path, limits, tensor_cores) : std::optional<Plan>();
    if (plan && (!best || plan->step < best->step)) best = plan;
  }
  FRNN_CHECK(best, "FASTRNN_CUDA_PATH is '", std::getenv("FASTRNN_CUDA_PATH"),
             "', but that path does not run this cell, shape and type on this device");
  if (best->path == Path::kStep) return std::nullopt;
  return best;
}

bool Run::launch_persistent(const Plan& plan, PersistentArgs args) {
  const Geometry& g = plan.geometry;
  const Exchange exchange = plan.exchange();
  args.p = p;
  args.g = g;
  args.whole_weights = p.hidden_size * element % 16 == 0;
  for (const void* w : args.weights) args.whole_weights = args.whole_weights && aligned(w, 16);
  if (exchange == Exchange::kGrid) {
    const int64_t groups = p.directions * g.groups;
    const int depth_gates = backward_ ? cell.h_blocks : 1;
    const int64_t row_bytes = int64_t(g.padded_hidden) * depth_gates * element;
    args.operands = static_cast<uint32_t*>(allocate(groups * 2 * g.rows * row_bytes));
    args.flags = static_cast<uint32_t*>(allocate_zeros(groups * g.ctas * 4));
  }
  const int tiles = g.tiles == 4 ? 2 : g.tiles == 2 ? 1 : 0;
  const auto kernel =
      kernels.persistent[int(arithmetic())][int(exchange)][tiles][backward_ ? 1 : 0];
  FRNN_CHECK(kernel, "no persistent kernel for this plan");
  const LaunchShape shape{.blocks = int64_t(g.groups) * g.ctas,
                          .directions = int(p.directions),
                          .threads = kThreads,
                          .shared_memory = g.shared_memory,
                          .cluster = exchange == Exchange::kCluster ? g.ctas : 1,
                          .cooperative = exchange == Exchange::kGrid};
  if (try_launch(kernel, shape, call.stream, args)) return true;
  const std::vector<Path> allowed = allowed_paths();
  FRNN_CHECK(std::find(allowed.begin(), allowed.end(), Path::kStep) != allowed.end(),
             "FASTRNN_CUDA_PATH is '", std::getenv("FASTRNN_CUDA_PATH"),
             "', but the device refused to run so many CTAs side by side");
  return false;
}

}  // namespace fastrnn::cuda
