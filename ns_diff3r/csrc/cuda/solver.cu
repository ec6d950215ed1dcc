// SPDX-License-Identifier: Apache-2.0
#include "solver.h"

namespace ns_diff3r {
namespace cuda {
namespace {

// out = JᵀWJ v
template <class T>
void multiply(const Queue& queue, const SolveProblem<T>& s, T* v, T* out) {
  const auto tangents = leaves<GaussianPointers<T>>(s.scene, v);
  const auto result = leaves<GaussianOutputs<T>>(s.scene, out);
  if (s.window == nullptr) {
    gauss_newton(s.scene, tangents, s.weights, s.tangent_records, s.slots, result, queue.handle());
    return;
  }
  const ImageShape shape{s.scene.num_views, s.scene.height, s.scene.width, 3};
  jvp(s.scene, tangents, s.tangent_records, s.image, queue.handle());
  ssim_curvature(shape, s.rendered, s.photograph, s.partials, s.window, s.weights, s.change, s.image, queue.handle());
  vjp(s.scene, ImageCotangents<T>{s.image, nullptr, nullptr}, s.slots, result, static_cast<double*>(nullptr),
      static_cast<double*>(nullptr), queue.handle());
}

// out = A v
template <class T>
void multiply_whole(const Queue& queue, const SolveProblem<T>& s, T* v, T* out) {
  multiply(queue, s, v, out);
  queue.launch(vector_partials(s.count),
               FinishProductKernel<T>{s.state, s.ranges, s.count, s.scale, s.strength, v, out, s.partial});
}

template <class T>
void precondition(const Queue& queue, const SolveProblem<T>& s, bool move, bool first) {
  int64_t partials = vector_partials(s.count);
  const bool small_blocks = s.blocks[0] != nullptr;
  queue.launch(partials, UpdateKernel<T>{s.state, move, !small_blocks, s.count, s.p, s.q, s.inverse, s.x, s.r, s.z, s.partial});
  if (small_blocks) {
    partials = 0;
    for (int k = 0; k < 2; ++k) {
      const int64_t own = vector_partials(s.num_blocks[k] * s.rows[k].size);
      queue.launch(own, ApplyBlocksKernel<T>{s.state, s.rows[k], s.num_blocks[k], s.blocks[k], s.r, s.z, s.partial + partials});
      partials += own;
    }
  }
  queue.launch(1, DecideKernel{s.state, s.history, first, s.partial, partials});
  queue.launch(vector_partials(s.count), DirectionKernel<T>{s.state, first, s.count, s.z, s.p, s.x});
}

template <class T>
void one_iteration(const Queue& queue, const SolveProblem<T>& s, bool refresh) {
  multiply_whole(queue, s, s.p, s.q);
  queue.launch(1, StepLengthKernel{s.state, s.partial, vector_partials(s.count)});
  if (refresh) {
    queue.launch(vector_partials(s.count),
                 UpdateKernel<T>{s.state, true, false, s.count, s.p, s.q, nullptr, s.x, s.r, s.z, s.partial});
    multiply_whole(queue, s, s.x, s.q);
    queue.launch(vector_partials(s.count), ResidualKernel<T>{s.state, s.count, s.b, s.q, s.r});
  }
  precondition(queue, s, !refresh, false);
}

struct InitializeKernel {
  static constexpr int kThreads = kWarp, kBlocksPerMultiprocessor = 1;
  using Shared = NoShared;
  SolveState* state;
  double tolerance;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    if (block.thread() == 0) *state = {0.0, 0.0, 0.0, 0.0, tolerance, int32_t(SolveStatus::running), 0, 0, 0};
  }
};

template <class T>
struct CopyKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  int64_t count;
  const T* from;
  T *to, *zero;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    for_elements(block, count, [&](int64_t i) {
      to[i] = from[i];
      zero[i] = T(0);
    });
  }
};

}  // namespace

int64_t vector_partials(int64_t count) { return blocks_for(count, kElements); }

int64_t step_partials(const Ranges& ranges) {
  int64_t blocks = 0;
  for (int r = 0; r < ranges.count; ++r) blocks += vector_partials(ranges.end[r] - ranges.begin[r]);
  return 2 * blocks;
}

void give_blocks(Ranges& ranges) {
  ranges.first_block[0] = 0;
  for (int r = 0; r < ranges.count; ++r)
    ranges.first_block[r + 1] = ranges.first_block[r] + vector_partials(ranges.end[r] - ranges.begin[r]);
}

template <class T>
void inner_step(StepKernel<T> step, double* statistics, const Stream& stream) {
  SumKernel sum{};
  Ranges& ranges = step.ranges;
  give_blocks(ranges);
  const int64_t blocks = ranges.first_block[ranges.count];
  for (int r = 0; r <= ranges.count; ++r) sum.first[r] = ranges.first_block[r];
  for (int r = 1; r <= ranges.count; ++r) sum.first[ranges.count + r] = blocks + ranges.first_block[r];
  sum.partial = step.partial;
  sum.out = statistics;
  const Queue queue(stream);
  queue.launch(blocks, step);
  queue.launch(2 * ranges.count, sum);
}

template <class T>
int64_t solve_partials(const SolveProblem<T>& s) {
  const int64_t small = vector_partials(s.num_blocks[0] * s.rows[0].size) + vector_partials(s.num_blocks[1] * s.rows[1].size);
  return larger(vector_partials(s.count), small);
}

template <class T>
void begin_solve(const SolveProblem<T>& s, double tolerance, const Stream& stream) {
  const Queue queue(stream);
  queue.launch(1, InitializeKernel{s.state, tolerance});
  queue.launch(vector_partials(s.count), CopyKernel<T>{s.count, s.b, s.r, s.x});
  precondition(queue, s, false, true);
}

template <class T>
void iterate(const SolveProblem<T>& s, std::shared_ptr<void>& graph, int count, bool refresh, const Stream& stream) {
  const Queue queue(stream);
  queue.repeat(refresh ? count - 1 : count, graph, [&](const Queue& q) { one_iteration(q, s, false); });
  if (refresh && count > 0) one_iteration(queue, s, true);
}

#define NS_INSTANTIATE(T)                                             \
  template void inner_step(StepKernel<T>, double*, const Stream&);        \
  template int64_t solve_partials(const SolveProblem<T>&);            \
  template void begin_solve(const SolveProblem<T>&, double, const Stream&); \
  template void iterate(const SolveProblem<T>&, std::shared_ptr<void>&, int, bool, const Stream&);
NS_INSTANTIATE(float)
#if !defined(__CUDACC__)
NS_INSTANTIATE(double)
#endif

}  // namespace cuda
}  // namespace ns_diff3r
