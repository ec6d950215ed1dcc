// SPDX-License-Identifier: Apache-2.0
#include "image_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "solver_kernels.h"
#include "vector_ops.h"

namespace ns_diff3r {
namespace {

constexpr int64_t kRowsPerItem = 4;
constexpr int64_t kPixelsPerItem = 8192;

const std::array<double, kWindowTaps>& window_taps() {
  static const std::array<double, kWindowTaps> taps = [] {
    std::array<double, kWindowTaps> values{};
    double total = 0.0;
    for (int k = 0; k < kWindowTaps; ++k) {
      const double offset = (k - kWindowRadius) / 1.5;
      total += values[k] = std::exp(-0.5 * offset * offset);
    }
    for (double& value : values) value /= total;
    return values;
  }();
  return taps;
}

template <class T>
FilterPass<T> window_pass(const ImageShape& shape, const double* taps = nullptr) {
  FilterPass<T> pass{};
  pass.shape = shape;
  for (int k = 0; k < kWindowTaps; ++k) pass.taps[k] = static_cast<T>(taps ? taps[k] : window_taps()[k]);
  return pass;
}

template <class T>
FilterPass<T> ssim_pass(const ImageShape& shape, const T* x, const SsimTarget<T>& target) {
  FilterPass<T> pass = window_pass<T>(shape);
  pass.x = x;
  pass.y = target.image;
  pass.target_mean = target.mean;
  pass.target_variance = target.variance;
  return pass;
}

// kernel(pass, row, scratch) for every row of every view; `images` is how many images the kernel filters.
template <class T>
void for_rows(int threads, int images, const FilterPass<T>& pass,
              void (*kernel)(const FilterPass<T>&, int64_t row, T* scratch)) {
  const int64_t rows = pass.shape.views * pass.shape.rows;
  const int64_t pitch = pass.shape.row_length() + 2 * kWindowRadius * pass.shape.channels;
  parallel_for(threads, (rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item) {
    std::vector<T> scratch(images * pitch, T(0));
    for (int64_t row = item * kRowsPerItem; row < std::min(rows, (item + 1) * kRowsPerItem); ++row)
      kernel(pass, row, scratch.data());
  });
}

}  // namespace

template <class T>
void image_filter(int threads, const ImageShape& shape, const double* taps, const T* in, T* out) {
  FilterPass<T> pass = window_pass<T>(shape, taps);
  pass.x = in;
  pass.out[0] = out;
  for_rows(threads, 1, pass, solver_kernels<T>().filter_row);
}

template <class T>
void ssim_target(int threads, const ImageShape& shape, const T* image, T* mean, T* variance) {
  FilterPass<T> pass = window_pass<T>(shape);
  pass.y = image;
  pass.out[0] = mean;
  pass.out[1] = variance;
  for_rows(threads, 2, pass, solver_kernels<T>().ssim_target_row);
}

template <class T>
double ssim_value(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target, T* ssim,
                  T* partial_mean, T* partial_square, T* partial_product) {
  FilterPass<T> pass = ssim_pass(shape, x, target);
  pass.out[0] = ssim;
  pass.out[1] = partial_mean;
  pass.out[2] = partial_square;
  pass.out[3] = partial_product;
  for_rows(threads, 3, pass, solver_kernels<T>().ssim_value_row);
  return sum(threads, shape.size(), static_cast<const T*>(ssim));
}

template <class T>
void ssim_vjp(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target,
              const SsimPartials<T>& partials, const T* u, double scale, bool accumulate, T* out) {
  FilterPass<T> pass = ssim_pass(shape, x, target);
  pass.partials = partials;
  pass.u = u;
  pass.scale = static_cast<T>(scale);
  pass.accumulate = accumulate;
  pass.out[0] = out;
  for_rows(threads, 3, pass, solver_kernels<T>().ssim_vjp_row);
}

template <class T>
void ssim_jvp(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target,
              const SsimPartials<T>& partials, const T* v, T* out) {
  FilterPass<T> pass = ssim_pass(shape, x, target);
  pass.partials = partials;
  pass.u = v;
  pass.out[0] = out;
  for_rows(threads, 3, pass, solver_kernels<T>().ssim_jvp_row);
}

template <class T>
void ssim_partials_jvp(int threads, const ImageShape& shape, const T* x, const SsimTarget<T>& target, const T* v,
                       T* tangent_mean, T* tangent_square, T* tangent_product) {
  FilterPass<T> pass = ssim_pass(shape, x, target);
  pass.u = v;
  pass.out[0] = tangent_mean;
  pass.out[1] = tangent_square;
  pass.out[2] = tangent_product;
  for_rows(threads, 6, pass, solver_kernels<T>().ssim_partials_jvp_row);
}

template <class T>
double pixel_loss(int threads, int64_t n, Penalty penalty, double delta, double scale, const T* x, const T* y,
                  const T* signs, T* gradient) {
  const PixelPass<T> pass{penalty, static_cast<T>(delta), static_cast<T>(scale), x, y, signs, gradient};
  std::vector<double> partial((n + kPixelsPerItem - 1) / kPixelsPerItem);
  parallel_for(threads, static_cast<int64_t>(partial.size()), [&](int64_t item) {
    partial[item] =
        solver_kernels<T>().pixel_loss(pass, item * kPixelsPerItem, std::min(n, (item + 1) * kPixelsPerItem));
  });
  double total = 0.0;
  for (double value : partial) total += value;
  return total;
}

template <class T>
void pixel_hessian_product(int threads, int64_t n, Penalty penalty, double delta, double scale, const T* x, const T* y,
                           const T* v, T* out) {
  const T limit = static_cast<T>(delta), factor = static_cast<T>(penalty == Penalty::mse ? 2.0 * scale : scale);
  parallel_for(threads, (n + kPixelsPerItem - 1) / kPixelsPerItem, [&](int64_t item) {
    const int64_t begin = item * kPixelsPerItem, end = std::min(n, begin + kPixelsPerItem);
    if (penalty == Penalty::l1) {
      std::fill(out + begin, out + end, T(0));
    } else if (penalty == Penalty::mse) {
      for (int64_t i = begin; i < end; ++i) out[i] = factor * v[i];
    } else {
      for (int64_t i = begin; i < end; ++i) out[i] = std::abs(x[i] - y[i]) <= limit ? factor * v[i] : T(0);
    }
  });
}

#define NS_INSTANTIATE(T)                                                                                            \
  template void image_filter(int, const ImageShape&, const double*, const T*, T*);                                   \
  template void ssim_target(int, const ImageShape&, const T*, T*, T*);                                               \
  template double ssim_value(int, const ImageShape&, const T*, const SsimTarget<T>&, T*, T*, T*, T*);                \
  template void ssim_vjp(int, const ImageShape&, const T*, const SsimTarget<T>&, const SsimPartials<T>&, const T*,   \
                         double, bool, T*);                                                                          \
  template void ssim_jvp(int, const ImageShape&, const T*, const SsimTarget<T>&, const SsimPartials<T>&, const T*,   \
                         T*);                                                                                        \
  template void ssim_partials_jvp(int, const ImageShape&, const T*, const SsimTarget<T>&, const T*, T*, T*, T*);     \
  template double pixel_loss(int, int64_t, Penalty, double, double, const T*, const T*, const T*, T*);                \
  template void pixel_hessian_product(int, int64_t, Penalty, double, double, const T*, const T*, const T*, T*);
NS_INSTANTIATE(float)
NS_INSTANTIATE(double)

}  // namespace ns_diff3r
