// SPDX-License-Identifier: Apache-2.0
// SSIM of one window as a function of the rendering's μ = Gx, p = G(x²), q = G(xy), with its derivatives.
#pragma once
#include "scalar.h"

namespace ns_diff3r {
namespace NS_ISA {

constexpr double kC1 = 1e-4, kC2 = 9e-4;  // (0.01)² and (0.03)² for images in [0, 1]

// S = a1·a2·r1·r2 with r1 = 1/b1, r2 = 1/b2, as a function of μ, p, q; the target's mean and variance are constants.
template <class V>
struct Window {
  V mean, target_mean, a1, a2, r1, r2, f, ssim, partial_mean, partial_square, partial_product;

  NS_HD Window(const V& mean_, const V& square, const V& product, const V& target_mean_, const V& target_variance)
      : mean(mean_), target_mean(target_mean_) {
    using T = scalar_t<V>;
    const V one(T(1)), two(T(2)), c1 = V(T(kC1)), c2 = V(T(kC2));
    const V b1 = mean * mean + target_mean * target_mean + c1;
    const V b2 = square - mean * mean + target_variance + c2;
    a1 = two * mean * target_mean + c1;
    a2 = two * (product - mean * target_mean) + c2;
    f = one / (b1 * b2);
    r1 = f * b2;
    r2 = f * b1;
    ssim = a1 * a2 * f;
    partial_mean = two * (target_mean * (a2 - a1) * f + mean * ssim * (r2 - r1));
    partial_square = -(ssim * r2);
    partial_product = two * a1 * f;
  }
};

template <class V>
NS_HD Window<V> window_of(const V& mean, const V& square, const V& product, const V& target_mean,
                          const V& target_variance) {
  return Window<V>(mean, square, product, target_mean, target_variance);
}

// Derivatives of the three partial derivatives along a change of μ, p, q.
template <class V>
struct WindowTangents {
  V mean, square, product;
};

template <class V>
NS_HD WindowTangents<V> window_jvp(const Window<V>& w, const V& d_mean, const V& d_square, const V& d_product) {
  const auto twice = [](const V& z) { return z + z; };
  const V d_a1 = twice(w.target_mean * d_mean), d_a2 = twice(d_product - w.target_mean * d_mean);
  const V d_b1 = twice(w.mean * d_mean), d_b2 = d_square - d_b1;
  const V d_f = -(w.f * (d_b1 * w.r1 + d_b2 * w.r2));
  const V d_ssim = w.partial_mean * d_mean + w.partial_square * d_square + w.partial_product * d_product;
  return {twice(w.target_mean * ((d_a2 - d_a1) * w.f + (w.a2 - w.a1) * d_f) +
                (d_mean * w.ssim + w.mean * d_ssim) * (w.r2 - w.r1) +
                w.mean * w.ssim * (w.r1 * w.r1 * d_b1 - w.r2 * w.r2 * d_b2)),
          w.r2 * (w.ssim * w.r2 * d_b2 - d_ssim), twice(d_a1 * w.f + w.a1 * d_f)};
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
