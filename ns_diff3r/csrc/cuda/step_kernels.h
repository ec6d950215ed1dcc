// SPDX-License-Identifier: Apache-2.0
// Steps of the inner optimisers, fused with the prior's gradient and the statistics of every attribute group.
#pragma once
#include "vector_kernels.h"

namespace ns_diff3r {
namespace cuda {

struct StepFactors {
  double beta1, beta2, epsilon, first_correction, second_correction;
};

// What a schedule says of one step, where a run's steps are launched before anybody knows which is which.
struct StepRates {
  double first_correction, second_correction, learning_rate[kMaxRanges];
};

enum class StepKind : int32_t { prior_gradient, sgd, adam };

// gradient += Λ(θ−θ⁰), the statistics of every range (partial [2, blocks]: prior, squared gradient), and the step.
template <class T>
struct StepKernel {
  static constexpr int kThreads = kVectorThreads, kBlocksPerMultiprocessor = 4;
  using Shared = SumShared;
  StepKind kind;
  Ranges ranges;
  StepFactors factors;
  const StepRates* schedule;  // a run's; null: the rates of `ranges` and `factors`
  const int32_t* number;      // which step of the schedule this is
  const T *theta, *anchor, *strength;
  T *gradient, *first_moment, *second_moment, *next;
  double* partial;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    int r = 0;
    while (r + 1 < ranges.count && block.index() >= ranges.first_block[r + 1]) ++r;
    const int64_t base = ranges.begin[r] + (block.index() - ranges.first_block[r]) * kElements;
    double learning_rate = ranges.learning_rate[r];
    double first_correction = factors.first_correction, second_correction = factors.second_correction;
    if (schedule) {
      const StepRates& now = schedule[*number];
      learning_rate = now.learning_rate[r];
      first_correction = now.first_correction;
      second_correction = now.second_correction;
    }
    const T rate = T(learning_rate * (kind == StepKind::adam ? first_correction : 1.0));
    double prior = 0.0, squared = 0.0;
    for (int k = 0; k < kEach; ++k) {
      const int64_t i = base + k * kVectorThreads + block.thread();
      if (i >= ranges.end[r]) continue;
      const T x = theta[i];
      if (ranges.frozen[r]) {
        if (kind != StepKind::prior_gradient) next[i] = x;
        continue;
      }
      T g = gradient[i];
      if (strength) {
        const T offset = x - anchor[i];
        prior += 0.5 * double(strength[i]) * double(offset) * double(offset);
        g += strength[i] * offset;
        gradient[i] = g;
      }
      squared += double(g) * double(g);
      if (kind == StepKind::sgd) next[i] = x - rate * g;
      if (kind == StepKind::adam) {
        const T m = T(factors.beta1) * first_moment[i] + T(1.0 - factors.beta1) * g;
        const T s = T(factors.beta2) * second_moment[i] + T(1.0 - factors.beta2) * (g * g);
        first_moment[i] = m;
        second_moment[i] = s;
        next[i] = x - rate * m / (sqrt(s * T(second_correction)) + T(factors.epsilon));
      }
    }
    const double prior_sum = block_sum<kThreads>(block, prior, shared.partial);
    const double squared_sum = block_sum<kThreads>(block, squared, shared.partial);
    if (block.thread() == 0) {
      partial[block.index()] = prior_sum;
      partial[ranges.first_block[ranges.count] + block.index()] = squared_sum;
    }
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
