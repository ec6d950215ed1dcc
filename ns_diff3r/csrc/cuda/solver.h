// SPDX-License-Identifier: Apache-2.0
// The solver's passes as launches: image losses, inner steps, and conjugate gradients wholly on the device. As in
// rasterizer.h all memory is the caller's, and nothing waits.
#pragma once
#include <memory>

#include "../cpu/image_ops.h"
#include "rasterizer.h"
#include "pcg_kernels.h"
#include "step_kernels.h"

namespace ns_diff3r {
namespace cuda {

// Partial sums that a pass over images or a vector needs.
int64_t image_partials(const ImageShape& shape);
int64_t pixel_partials(int64_t count);
int64_t vector_partials(int64_t count);

template <class T>
void image_filter(const ImageShape& shape, const double* taps, const T* in, T* out, const Stream& stream);
template <class T>
void ssim_target(const ImageShape& shape, const T* image, T* mean, T* variance, const Stream& stream);
// sum: Σ S, one double on the device; null: it stays in partial sums
template <class T>
void ssim_value(const ImageShape& shape, const T* x, const SsimTarget<T>& target, T* ssim, T* a, T* b, T* c,
                double* partial, double* sum, const Stream& stream);
// out = scale·Jᵀu + (accumulate ? out : 0); u null: all ones
template <class T>
void ssim_vjp(const ImageShape& shape, const T* x, const T* y, const SsimPartials<T>& partials, const T* u, double scale,
              bool accumulate, T* out, const Stream& stream);
template <class T>
void ssim_jvp(const ImageShape& shape, const T* x, const T* y, const SsimPartials<T>& partials, const T* v, T* out,
              const Stream& stream);
template <class T>
void ssim_partials_jvp(const ImageShape& shape, const T* x, const SsimTarget<T>& target, const T* v, T* a, T* b, T* c,
                       const Stream& stream);
// image = weights∘image + J_Sᵀ (window∘ J_S image); change: work memory of its size
template <class T>
void ssim_curvature(const ImageShape& shape, const T* x, const T* y, const SsimPartials<T>& partials, const T* window,
                    const T* weights, T* change, T* image, const Stream& stream);
// sum as above
template <class T>
void pixel_loss(int64_t count, Penalty penalty, double delta, double scale, const T* x, const T* y, const T* signs,
                T* gradient, double* partial, double* sum, const Stream& stream);

// first_block is filled in here; statistics: [2, ranges], the priors and then the squared gradients, on the device.
template <class T>
void inner_step(StepKernel<T> step, double* statistics, const Stream& stream);
int64_t step_partials(const Ranges& ranges);
void give_blocks(Ranges& ranges);

// A = scale·JᵀWJ + diag(Λ) on the free ranges, with M⁻¹ and the vectors of a solve.
template <class T>
struct SolveProblem {
  Scene<T> scene;
  int64_t count;  // P
  // W = diag(weights) + J_Sᵀ diag(window) J_S; window null: diagonal
  const T *weights, *window, *rendered, *photograph;
  SsimPartials<T> partials;
  T *image, *change;  // work images for the second part
  T scale;
  const T* strength;
  Ranges ranges;
  // M⁻¹: inverse (a diagonal), or small blocks (two kinds), or neither: the identity
  const T* inverse;
  const T* blocks[2];
  BlockRows rows[2];
  int64_t num_blocks[2];
  const T* b;
  T *x, *r, *z, *p, *q;
  double *partial, *history;
  SolveState* state;
  void* tangent_records;
  T* slots;
};

template <class T>
int64_t solve_partials(const SolveProblem<T>& problem);
// x = 0, r = b, p = z = M⁻¹b
template <class T>
void begin_solve(const SolveProblem<T>& problem, double tolerance, const Stream& stream);
// `count` iterations, those after the end of the solve without effect; refresh: the last one computes r = b − Ax anew.
// `graph`, empty at first, keeps the recorded iteration of this problem.
template <class T>
void iterate(const SolveProblem<T>& problem, std::shared_ptr<void>& graph, int count, bool refresh, const Stream& stream);

}  // namespace cuda
}  // namespace ns_diff3r
