// SPDX-License-Identifier: Apache-2.0
#include "vector_ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "solver_kernels.h"

namespace ns_diff3r {
namespace {

constexpr int64_t kChunk = 8192;

// fn(begin, length) for consecutive chunks of [0, n).
template <class Fn>
void for_chunks(int threads, int64_t n, const Fn& fn) {
  parallel_for(threads, (n + kChunk - 1) / kChunk, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk;
    fn(begin, std::min(kChunk, n - begin));
  });
}

// Σ fn(begin, length) over the chunks, in index order.
template <class Fn>
double sum_chunks(int threads, int64_t n, const Fn& fn) {
  std::vector<double> partial((n + kChunk - 1) / kChunk);
  for_chunks(threads, n, [&](int64_t begin, int64_t length) { partial[begin / kChunk] = fn(begin, length); });
  double total = 0.0;
  for (double value : partial) total += value;
  return total;
}

// fn(range, begin, length) → RangeStatistics for the chunks of every range that is not frozen; none crosses a range.
template <class T, class Fn>
void for_ranges(int threads, const StepInput<T>& in, RangeStatistics* statistics, const Fn& fn) {
  std::vector<int64_t> first_chunk(in.num_ranges + 1, 0);
  for (int64_t r = 0; r < in.num_ranges; ++r)
    first_chunk[r + 1] = first_chunk[r] + (in.ranges[r].end - in.ranges[r].begin + kChunk - 1) / kChunk;
  std::vector<RangeStatistics> partial(first_chunk[in.num_ranges]);
  parallel_for(threads, first_chunk[in.num_ranges], [&](int64_t chunk) {
    const int64_t r = std::upper_bound(first_chunk.begin(), first_chunk.end(), chunk) - first_chunk.begin() - 1;
    const int64_t begin = in.ranges[r].begin + (chunk - first_chunk[r]) * kChunk;
    partial[chunk] = fn(in.ranges[r], begin, std::min(kChunk, in.ranges[r].end - begin));
  });
  for (int64_t r = 0; r < in.num_ranges; ++r) {
    statistics[r] = {0.0, 0.0};
    for (int64_t chunk = first_chunk[r]; chunk < first_chunk[r + 1]; ++chunk) {
      statistics[r].prior += partial[chunk].prior;
      statistics[r].squared_gradient += partial[chunk].squared_gradient;
    }
  }
}

template <class T>
RangeStatistics add_prior(const StepInput<T>& in, int64_t begin, int64_t length) {
  return solver_kernels<T>().add_prior(length, in.theta + begin, in.anchor ? in.anchor + begin : nullptr,
                                       in.strength ? in.strength + begin : nullptr, in.gradient + begin);
}

}  // namespace

template <class T>
double dot(int threads, int64_t n, const T* a, const T* b) {
  const auto kernel = solver_kernels<T>().dot;
  return sum_chunks(threads, n, [=](int64_t begin, int64_t length) { return kernel(length, a + begin, b + begin); });
}

template <class T>
double sum(int threads, int64_t n, const T* a) {
  const auto kernel = solver_kernels<T>().sum;
  return sum_chunks(threads, n, [=](int64_t begin, int64_t length) { return kernel(length, a + begin); });
}

template <class T>
void axpy(int threads, int64_t n, double a, const T* x, T* y) {
  const auto kernel = solver_kernels<T>().axpy;
  for_chunks(threads, n,
             [=](int64_t begin, int64_t length) { kernel(length, static_cast<T>(a), x + begin, y + begin); });
}

template <class T>
void xpby(int threads, int64_t n, const T* x, double b, T* y) {
  const auto kernel = solver_kernels<T>().xpby;
  for_chunks(threads, n,
             [=](int64_t begin, int64_t length) { kernel(length, x + begin, static_cast<T>(b), y + begin); });
}

template <class T>
void scale_add_diagonal(int threads, int64_t n, double scale, const T* diagonal, const T* x, T* y) {
  const auto kernel = solver_kernels<T>().scale_add_diagonal;
  for_chunks(threads, n, [=](int64_t begin, int64_t length) {
    kernel(length, static_cast<T>(scale), diagonal ? diagonal + begin : nullptr, x + begin, y + begin);
  });
}

template <class T>
void cg_update(int threads, int64_t n, double a, const T* p, const T* q, T* x, T* r) {
  const auto kernel = solver_kernels<T>().cg_update;
  for_chunks(threads, n, [=](int64_t begin, int64_t length) {
    kernel(length, static_cast<T>(a), p + begin, q + begin, x + begin, r + begin);
  });
}

template <class T>
void multiply(int threads, int64_t n, const T* a, const T* b, T* out) {
  const auto kernel = solver_kernels<T>().multiply;
  for_chunks(threads, n, [=](int64_t begin, int64_t length) { kernel(length, a + begin, b + begin, out + begin); });
}

template <class T>
double diagonal_solve(int threads, int64_t n, const T* diagonal, const T* r, T* z) {
  const SolverKernels<T>& kernels = solver_kernels<T>();
  return sum_chunks(threads, n, [&](int64_t begin, int64_t length) {
    kernels.multiply(length, diagonal + begin, r + begin, z + begin);
    return kernels.dot(length, r + begin, z + begin);
  });
}

template <class T>
void prior_gradient(int threads, const StepInput<T>& in, RangeStatistics* statistics) {
  for_ranges(threads, in, statistics, [&](const ParameterRange& range, int64_t begin, int64_t length) {
    return range.frozen ? RangeStatistics{0.0, 0.0} : add_prior(in, begin, length);
  });
}

template <class T>
void adam_step(int threads, const StepInput<T>& in, const AdamRates& rates, T* first_moment, T* second_moment,
               T* theta_next, RangeStatistics* statistics) {
  const double step = static_cast<double>(rates.step);
  AdamFactors<T> factors{};
  factors.beta1 = static_cast<T>(rates.beta1);
  factors.keep1 = static_cast<T>(1.0 - rates.beta1);
  factors.beta2 = static_cast<T>(rates.beta2);
  factors.keep2 = static_cast<T>(1.0 - rates.beta2);
  factors.second_correction = static_cast<T>(1.0 / (1.0 - std::pow(rates.beta2, step)));
  factors.epsilon = static_cast<T>(rates.epsilon);
  const double first_correction = 1.0 / (1.0 - std::pow(rates.beta1, step));
  const auto kernel = solver_kernels<T>().adam;
  for_ranges(threads, in, statistics, [&](const ParameterRange& range, int64_t begin, int64_t length) {
    if (range.frozen) {
      std::copy(in.theta + begin, in.theta + begin + length, theta_next + begin);
      return RangeStatistics{0.0, 0.0};
    }
    const RangeStatistics result = add_prior(in, begin, length);
    AdamFactors<T> own = factors;
    own.rate = static_cast<T>(range.learning_rate * first_correction);
    kernel(length, own, in.theta + begin, in.gradient + begin, first_moment + begin, second_moment + begin,
           theta_next + begin);
    return result;
  });
}

template <class T>
void sgd_step(int threads, const StepInput<T>& in, T* theta_next, RangeStatistics* statistics) {
  const auto kernel = solver_kernels<T>().axpy;
  for_ranges(threads, in, statistics, [&](const ParameterRange& range, int64_t begin, int64_t length) {
    const RangeStatistics result = range.frozen ? RangeStatistics{0.0, 0.0} : add_prior(in, begin, length);
    if (theta_next != in.theta) std::copy(in.theta + begin, in.theta + begin + length, theta_next + begin);
    if (!range.frozen) kernel(length, static_cast<T>(-range.learning_rate), in.gradient + begin, theta_next + begin);
    return result;
  });
}

#define NS_INSTANTIATE(T)                                                                                        \
  template double dot(int, int64_t, const T*, const T*);                                                         \
  template double sum(int, int64_t, const T*);                                                                   \
  template void axpy(int, int64_t, double, const T*, T*);                                                        \
  template void xpby(int, int64_t, const T*, double, T*);                                                        \
  template void scale_add_diagonal(int, int64_t, double, const T*, const T*, T*);                                \
  template void cg_update(int, int64_t, double, const T*, const T*, T*, T*);                                     \
  template void multiply(int, int64_t, const T*, const T*, T*);                                                  \
  template double diagonal_solve(int, int64_t, const T*, const T*, T*);                                          \
  template void prior_gradient(int, const StepInput<T>&, RangeStatistics*);                                      \
  template void adam_step(int, const StepInput<T>&, const AdamRates&, T*, T*, T*, RangeStatistics*);             \
  template void sgd_step(int, const StepInput<T>&, T*, RangeStatistics*);
NS_INSTANTIATE(float)
NS_INSTANTIATE(double)

}  // namespace ns_diff3r
