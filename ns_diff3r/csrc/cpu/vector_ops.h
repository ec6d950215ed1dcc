// SPDX-License-Identifier: Apache-2.0
// Operations on flat parameter vectors: what conjugate gradients and the first-order inner optimisers are made of.
// Every reduction sums chunks of fixed size in double and combines them in index order, so that for one instruction
// set no result depends on the number of threads.
#pragma once
#include <cstdint>

namespace ns_diff3r {

// A stretch of the flat layout (one attribute group) with its learning rate. Frozen parameters keep their value.
struct ParameterRange {
  int64_t begin, end;
  double learning_rate;
  bool frozen;
};

// Of one range, at the parameters before the step: ½ Σ Λ(θ−θ⁰)² and Σ g² of the total gradient (0 if frozen).
struct RangeStatistics {
  double prior, squared_gradient;
};

// What a step of a first-order optimiser reads: parameters, prior (anchor and strength, or two null pointers), and the
// gradient of the image loss, which is replaced by the total gradient g = gradient + Λ(θ−θ⁰).
template <class T>
struct StepInput {
  const ParameterRange* ranges;
  int64_t num_ranges;
  const T* theta;
  const T* anchor;
  const T* strength;
  T* gradient;
};

struct AdamRates {
  double beta1, beta2, epsilon;
  int64_t step;  // 1 for the first: the exponent of the bias correction
};

template <class T>
double dot(int threads, int64_t n, const T* a, const T* b);
template <class T>
double sum(int threads, int64_t n, const T* a);
// y += a·x
template <class T>
void axpy(int threads, int64_t n, double a, const T* x, T* y);
// y = x + b·y
template <class T>
void xpby(int threads, int64_t n, const T* x, double b, T* y);
// y = scale·y + diagonal∘x; diagonal may be null
template <class T>
void scale_add_diagonal(int threads, int64_t n, double scale, const T* diagonal, const T* x, T* y);
// x += a·p, r −= a·q
template <class T>
void cg_update(int threads, int64_t n, double a, const T* p, const T* q, T* x, T* r);
// out = a∘b; out may be a or b
template <class T>
void multiply(int threads, int64_t n, const T* a, const T* b, T* out);
// z = diagonal∘r; returns r·z
template <class T>
double diagonal_solve(int threads, int64_t n, const T* diagonal, const T* r, T* z);
// gradient += Λ(θ−θ⁰), with the statistics of every range
template <class T>
void prior_gradient(int threads, const StepInput<T>& in, RangeStatistics* statistics);
// Adam with bias correction on the total gradient; theta_next may be theta; the moments are updated in place
template <class T>
void adam_step(int threads, const StepInput<T>& in, const AdamRates& rates, T* first_moment, T* second_moment,
               T* theta_next, RangeStatistics* statistics);
// θ − learning rate · g
template <class T>
void sgd_step(int threads, const StepInput<T>& in, T* theta_next, RangeStatistics* statistics);

}  // namespace ns_diff3r
