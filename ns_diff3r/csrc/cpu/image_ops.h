// SPDX-License-Identifier: Apache-2.0
// Passes over images [views, rows, width, channels] for the photometric losses. SSIM uses an 11×11 Gaussian window
// (sigma 1.5) with zero padding, per channel; its window filter is symmetric, hence its own adjoint.
//
// With x the rendering, y the target and G the filter, a window sees x only through μ = Gx, p = G(x²), q = G(xy):
// SSIM S(μ, p, q) and its partial derivatives a = ∂S/∂μ, b = ∂S/∂p, c = ∂S/∂q give every derivative product,
//     J v = a∘Gv + b∘G(2x∘v) + c∘G(y∘v)           Jᵀu = G(a∘u) + 2x∘G(b∘u) + y∘G(c∘u).
#pragma once
#include <cstdint>

namespace ns_diff3r {

constexpr int kWindowRadius = 5;
constexpr int kWindowTaps = 2 * kWindowRadius + 1;

struct ImageShape {
  int64_t views, rows, width, channels;
  int64_t row_length() const { return width * channels; }
  int64_t size() const { return views * rows * row_length(); }
};

template <class T>
struct SsimTarget {  // the photograph with its window means and variances
  const T *image, *mean, *variance;
};

template <class T>
struct SsimPartials {
  const T *mean, *square, *product;  // a, b, c
};

enum class Penalty : int { l1 = 0, mse = 1, huber = 2 };

// out = G in with the given 11 taps along both axes (null: the window of SSIM)
template <class T>
void image_filter(int threads, const ImageShape& shape, const double* taps, const T* in, T* out);
// window means and variances of a photograph
template <class T>
void ssim_target(int threads, const ImageShape& shape, const T* image, T* mean, T* variance);
// Σ S in double; writes S and the three partial derivatives
template <class T>
double ssim_value(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target, T* ssim,
                  T* partial_mean, T* partial_square, T* partial_product);
// out = scale·Jᵀu + (accumulate ? out : 0); u null: all ones
template <class T>
void ssim_vjp(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target,
              const SsimPartials<T>& partials, const T* u, double scale, bool accumulate, T* out);
// out = J v
template <class T>
void ssim_jvp(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target,
              const SsimPartials<T>& partials, const T* v, T* out);
// derivatives of a, b, c along v
template <class T>
void ssim_partials_jvp(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target, const T* v,
                       T* tangent_mean, T* tangent_square, T* tangent_product);
// Σ ρ(e) in double, e = x − y; gradient = scale·ρ'(e). With signs (L1 only): ρ = signs∘e.
template <class T>
double pixel_loss(int threads, int64_t n, Penalty penalty, double delta, double scale, const T* x, const T* y,
                  const T* signs, T* gradient);
// out = scale·ρ''(e)∘v
template <class T>
void pixel_hessian_product(int threads, int64_t n, Penalty penalty, double delta, double scale, const T* x, const T* y,
                           const T* v, T* out);

}  // namespace ns_diff3r
