// SPDX-License-Identifier: Apache-2.0
// One pixel and one Gaussian. There is no list of contributing pairs: every kernel decides again, by the same numbers, so
// that all kernels of a linearisation agree to the last bit. Hence the products and sums below leave no contraction to
// the compiler. At a point whose decisions are frozen elsewhere (Frozen), they are made with the records of that origin.
#pragma once
#include "scene.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
NS_KERNEL T exponent(const Record<T>& g, T dx, T dy) {
  return fused(dx, fused(dx, g.a, rounded_product(dy, g.b)), rounded_product(rounded_product(dy, dy), g.c));
}

template <class T>
struct PairAlpha {
  bool contributes;
  T dx, dy;
  T alpha;
  T slope;  // d(alpha) = slope q: alpha itself, but at the cap 0 or (straight-through) opacity 2^e
};

template <bool Frozen, class T>
NS_KERNEL PairAlpha<T> pair_alpha(const RasterizationConfig<T>& config, const Record<T>& g, const Record<T>& origin, T x, T y) {
  PairAlpha<T> pair;
  pair.dx = g.mean_x - x;
  pair.dy = g.mean_y - y;
  const T e = exponent(g, pair.dx, pair.dy);
  const T raw = rounded_product(power_of_two(e), g.opacity);
  T deciding = raw, deciding_exponent = e;
  if constexpr (Frozen) {
    deciding_exponent = exponent(origin, origin.mean_x - x, origin.mean_y - y);
    deciding = rounded_product(power_of_two(deciding_exponent), origin.opacity);
  }
  pair.contributes = deciding_exponent <= T(0) && deciding >= config.alpha_min;
  pair.alpha = pair.slope = raw;
  if (deciding > config.alpha_max) {
    pair.alpha = config.alpha_max;
    if constexpr (Frozen)
      if (config.gradient_through_cap) pair.alpha += raw - deciding;  // the function that has this derivative
    if (!config.gradient_through_cap) pair.slope = T(0);
  }
  return pair;
}

// What a pair leaves of the light behind it. Never 0, so that a sweep back can divide by it.
template <class T>
NS_KERNEL T passed_on(T alpha) {
  return larger(T(1) - alpha, Smallest<T>::factor);
}

template <class T>
NS_KERNEL T relative_tangent(const TangentRecord<T>& t, T dx, T dy) {
  return t.q[0] + dx * (t.q[1] + dx * t.q[3] + dy * t.q[4]) + dy * (t.q[2] + dy * t.q[5]);
}

// Whether opacity 2^e reaches alpha_min somewhere in a box of pixel centres (with a margin for rounding). The maximum of
// a concave quadratic over a box that does not hold its centre lies on an edge that faces the centre. One kernel counts
// by this and another one writes what was counted, so here too every operation is spelled out: left to choose, nvcc
// contracts the first turn of an unrolled loop otherwise than the rest of it, and a count would be one too few.
template <class T>
NS_KERNEL bool reaches(const Record<T>& g, T x0, T y0, T span_x, T span_y) {
  const T zero = T(0);
  const T high_x = g.mean_x - x0, low_x = high_x - span_x, high_y = g.mean_y - y0, low_y = high_y - span_y;
  const T near_x = larger(low_x, smaller(high_x, zero)), near_y = larger(low_y, smaller(high_y, zero));
  const T half_b = rounded_product(g.b, T(-0.5));
  const T along_y = larger(low_y, smaller(high_y, rounded_product(half_b, near_x) / g.c));
  const T along_x = larger(low_x, smaller(high_x, rounded_product(half_b, near_y) / g.a));
  const T limit = fused(rounded_product(g.tau, T(-kLog2E)), T(1.001), T(-1e-3));
  return exponent(g, near_x, along_y) >= limit || exponent(g, along_x, near_y) >= limit;
}

}  // namespace cuda
}  // namespace ns_diff3r
