// SPDX-License-Identifier: Apache-2.0
// Chunks of the operations in vector_ops.h. The order of every sum is part of the source: sixteen partial sums.
#pragma once
#include "../math/scalar.h"
#include "vector_ops.h"

namespace ns_diff3r {
namespace NS_ISA {

constexpr int kSumLanes = 16;

// Σ term(i) over i in [0, n), in double.
template <class Term>
NS_HD double lane_sum(int64_t n, const Term& term) {
  double lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes)
    for (int l = 0; l < kSumLanes; ++l) lanes[l] += term(i + l);
  for (int l = 0; i + l < n; ++l) lanes[l] += term(i + l);
  for (int width = kSumLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return lanes[0];
}

template <class T>
double dot(int64_t n, const T* a, const T* b) {
  return lane_sum(n, [=](int64_t i) { return static_cast<double>(a[i]) * static_cast<double>(b[i]); });
}

template <class T>
double sum(int64_t n, const T* a) {
  return lane_sum(n, [=](int64_t i) { return static_cast<double>(a[i]); });
}

template <class T>
void axpy(int64_t n, T a, const T* x, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

template <class T>
void xpby(int64_t n, const T* x, T b, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] + b * y[i];
}

template <class T>
void scale_add_diagonal(int64_t n, T scale, const T* diagonal, const T* x, T* y) {
  if (diagonal == nullptr) {
    for (int64_t i = 0; i < n; ++i) y[i] *= scale;
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = scale * y[i] + diagonal[i] * x[i];
  }
}

template <class T>
void cg_update(int64_t n, T a, const T* p, const T* q, T* x, T* r) {
  for (int64_t i = 0; i < n; ++i) {
    x[i] += a * p[i];
    r[i] -= a * q[i];
  }
}

template <class T>
void multiply(int64_t n, const T* a, const T* b, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

template <class T>
RangeStatistics add_prior(int64_t n, const T* theta, const T* anchor, const T* strength, T* gradient) {
  RangeStatistics statistics{0.0, 0.0};
  if (strength != nullptr) {
    statistics.prior = 0.5 * lane_sum(n, [=](int64_t i) {
      const double offset = static_cast<double>(theta[i] - anchor[i]);
      return static_cast<double>(strength[i]) * offset * offset;
    });
    for (int64_t i = 0; i < n; ++i) gradient[i] += strength[i] * (theta[i] - anchor[i]);
  }
  statistics.squared_gradient = dot(n, static_cast<const T*>(gradient), static_cast<const T*>(gradient));
  return statistics;
}

template <class T>
void adam(int64_t n, const AdamFactors<T>& f, const T* theta, const T* g, T* m, T* s, T* next) {
  const AdamFactors<T> k = f;
  for (int64_t i = 0; i < n; ++i) {
    m[i] = k.beta1 * m[i] + k.keep1 * g[i];
    s[i] = k.beta2 * s[i] + k.keep2 * (g[i] * g[i]);
    next[i] = theta[i] - k.rate * m[i] / (sqrt(s[i] * k.second_correction) + k.epsilon);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
