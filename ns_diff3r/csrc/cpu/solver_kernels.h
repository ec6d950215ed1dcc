// SPDX-License-Identifier: Apache-2.0
// The solver's inner loops of one instruction set, as pointers (see kernels.h): each works on one chunk of fixed size.
#pragma once
#include <cstdint>

#include "image_ops.h"
#include "small_blocks.h"
#include "vector_ops.h"

namespace ns_diff3r {

template <class T>
struct AdamFactors {
  T beta1, keep1, beta2, keep2, second_correction, epsilon, rate;
};

// One row of the window filter and the images it reads; which ones depends on the pass.
template <class T>
struct FilterPass {
  ImageShape shape;
  T taps[kWindowTaps];
  const T *x, *y, *target_mean, *target_variance, *u;
  SsimPartials<T> partials;
  T scale;
  bool accumulate;
  T* out[4];
};

template <class T>
struct PixelPass {
  Penalty penalty;
  T delta, scale;
  const T *x, *y, *signs;
  T* gradient;
};

template <class T>
struct SolverKernels {
  double (*dot)(int64_t n, const T* a, const T* b);
  double (*sum)(int64_t n, const T* a);
  void (*axpy)(int64_t n, T a, const T* x, T* y);
  void (*xpby)(int64_t n, const T* x, T b, T* y);
  void (*scale_add_diagonal)(int64_t n, T scale, const T* diagonal, const T* x, T* y);
  void (*cg_update)(int64_t n, T a, const T* p, const T* q, T* x, T* r);
  void (*multiply)(int64_t n, const T* a, const T* b, T* out);
  RangeStatistics (*add_prior)(int64_t n, const T* theta, const T* anchor, const T* strength, T* gradient);
  void (*adam)(int64_t n, const AdamFactors<T>& f, const T* theta, const T* g, T* m, T* s, T* next);
  int64_t (*invert_blocks)(int size, bool with_prior, bool square_root, int lanes, T* matrix, T* vectors,
                           const T* scaling, T* inverse);
  void (*apply_blocks)(int size, const T* inverse, const T* right, T* x);
  // the row `row` of views × rows; scratch holds filter_scratch_size() zeros, of which the margins stay zero
  void (*filter_row)(const FilterPass<T>&, int64_t row, T* scratch);
  void (*ssim_target_row)(const FilterPass<T>&, int64_t row, T* scratch);
  void (*ssim_value_row)(const FilterPass<T>&, int64_t row, T* scratch);
  void (*ssim_vjp_row)(const FilterPass<T>&, int64_t row, T* scratch);
  void (*ssim_jvp_row)(const FilterPass<T>&, int64_t row, T* scratch);
  void (*ssim_partials_jvp_row)(const FilterPass<T>&, int64_t row, T* scratch);
  double (*pixel_loss)(const PixelPass<T>&, int64_t begin, int64_t end);
};

// The kernels of the instruction set that this process uses.
template <class T>
const SolverKernels<T>& solver_kernels();

}  // namespace ns_diff3r
