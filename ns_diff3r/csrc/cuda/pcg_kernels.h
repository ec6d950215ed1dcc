// SPDX-License-Identifier: Apache-2.0
// Conjugate gradients between two products. All scalars are in device memory (SolveState); once a solve has ended, every
// kernel returns at once, so that more iterations than needed may be launched.
#pragma once
#include "vector_kernels.h"

namespace ns_diff3r {
namespace cuda {

constexpr int kMaxBlockRows = 25;

enum class SolveStatus : int32_t { running = 0, converged = 1, breakdown = 2, zero_rhs = 3 };

// The scalars of a solve, on the device. history[k] = sqrt(rᵀM⁻¹r / bᵀM⁻¹b) after k iterations.
struct SolveState {
  double rhs_norm2, rz, step, beta, tolerance;
  int32_t status, iterations, undo, unused;
};

// Where row j of small matrix b lies in a flat vector: offset + (b / inner)·stride + b % inner.
struct BlockRows {
  int32_t size, inner;
  int64_t offset[kMaxBlockRows], stride[kMaxBlockRows];
  bool frozen[kMaxBlockRows];

  NS_KERNEL int64_t at(int64_t b, int j) const { return offset[j] + b / inner * stride[j] + b % inner; }
};

NS_KERNEL bool running(const SolveState* state) { return state->status == int32_t(SolveStatus::running); }
NS_KERNEL bool is_finite(double x) { return x - x == 0.0; }

NS_KERNEL bool is_frozen(const Ranges& ranges, int64_t i) {
  for (int r = 0; r < ranges.count; ++r)
    if (ranges.frozen[r] && i >= ranges.begin[r] && i < ranges.end[r]) return true;
  return false;
}

// q = scale·q + Λ∘p, 0 in frozen ranges; partial sums of p·q.
template <class T>
struct FinishProductKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = SumShared;
  const SolveState* state;
  Ranges ranges;
  int64_t count;
  T scale;
  const T *strength, *p;
  T* q;
  double* partial;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    if (!running(state)) return;
    double own = 0.0;
    for_elements(block, count, [&](int64_t i) {
      const T value = is_frozen(ranges, i) ? T(0) : (strength ? scale * q[i] + strength[i] * p[i] : scale * q[i]);
      q[i] = value;
      own += double(p[i]) * double(value);
    });
    store_partial(block, shared, own, partial);
  }
};

// The length of the step from the curvature p·q.
struct StepLengthKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 1;
  using Shared = SumShared;
  SolveState* state;
  const double* partial;
  int64_t num_partials;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    if (!running(state)) {
      if (block.thread() == 0) state->undo = 0;  // what was to be undone has been, in the iteration before
      return;
    }
    const double curvature = sum_partials(block, shared, partial, num_partials);
    if (block.thread() != 0) return;
    state->step = state->rz / curvature;
    if (!(curvature > 0.0) || !is_finite(state->step)) state->status = int32_t(SolveStatus::breakdown);
  }
};

// x += step·p, r −= step·q (unless the solve has not begun: first), z = inverse∘r (or r), partial sums of r·z.
template <class T>
struct UpdateKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = SumShared;
  const SolveState* state;
  bool move, solve;
  int64_t count;
  const T *p, *q, *inverse;
  T *x, *r, *z;
  double* partial;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    if (!running(state)) return;
    const T step = move ? T(state->step) : T(0);
    double own = 0.0;
    for_elements(block, count, [&](int64_t i) {
      T rest = r[i];
      if (move) {
        x[i] += step * p[i];
        rest -= step * q[i];
        r[i] = rest;
      }
      if (!solve) return;
      const T value = inverse ? inverse[i] * rest : rest;
      z[i] = value;
      own += double(rest) * double(value);
    });
    if (solve) store_partial(block, shared, own, partial);
  }
};

// z = blocks·r, a thread a row, partial sums of r·z.
template <class T>
struct ApplyBlocksKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = SumShared;
  const SolveState* state;
  BlockRows rows;
  int64_t num_blocks;
  const T *inverse, *r;  // [num_blocks, size, size]
  T* z;
  double* partial;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    if (!running(state)) return;
    double own = 0.0;
    for_elements(block, num_blocks * rows.size, [&](int64_t k) {
      const int64_t b = k / rows.size;
      const int i = int(k % rows.size);
      T sum = T(0);
      if (!rows.frozen[i])
        for (int j = 0; j < rows.size; ++j)
          if (!rows.frozen[j]) sum += inverse[k * rows.size + j] * r[rows.at(b, j)];
      const int64_t at = rows.at(b, i);
      z[at] = sum;
      own += double(r[at]) * double(sum);
    });
    store_partial(block, shared, own, partial);
  }
};

// r = b − q, q = Ax
template <class T>
struct ResidualKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  const SolveState* state;
  int64_t count;
  const T *b, *q;
  T* r;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    if (!running(state)) return;
    for_elements(block, count, [&](int64_t i) { r[i] = b[i] - q[i]; });
  }
};

// From the new r·z: the next direction's factor, and whether the solve ends. first: of the right-hand side.
struct DecideKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 1;
  using Shared = SumShared;
  SolveState* state;
  double* history;
  bool first;
  const double* partial;
  int64_t num_partials;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    if (!running(state)) return;  // thread 0 changes that only behind the barriers of the sum
    const double rz = sum_partials(block, shared, partial, num_partials);
    if (block.thread() != 0) return;
    if (first) {
      state->rhs_norm2 = rz;
      history[0] = rz > 0.0 ? 1.0 : 0.0;
      if (rz == 0.0)
        state->status = int32_t(SolveStatus::zero_rhs);
      else if (!(rz > 0.0) || !is_finite(rz))
        state->status = int32_t(SolveStatus::breakdown);
      state->beta = 0.0;
    } else if (!(rz >= 0.0) || !is_finite(rz)) {
      state->status = int32_t(SolveStatus::breakdown);
      state->undo = 1;  // back to the last sound iterate
    } else {
      state->iterations += 1;
      history[state->iterations] = ::sqrt(rz / state->rhs_norm2);
      state->beta = rz / state->rz;
      if (history[state->iterations] <= state->tolerance) state->status = int32_t(SolveStatus::converged);
    }
    state->rz = rz;
  }
};

// p = z + beta·p while the solve goes on; after a breakdown x −= step·p, once.
template <class T>
struct DirectionKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  const SolveState* state;
  bool first;
  int64_t count;
  const T* z;
  T *p, *x;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    if (running(state)) {
      const T beta = T(state->beta);
      for_elements(block, count, [&](int64_t i) { p[i] = first ? z[i] : z[i] + beta * p[i]; });
    } else if (state->undo) {
      const T step = T(state->step);
      for_elements(block, count, [&](int64_t i) { x[i] -= step * p[i]; });
    }
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
