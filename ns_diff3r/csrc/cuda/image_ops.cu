// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "image_kernels.h"
#include "solver.h"

namespace ns_diff3r {
namespace cuda {
namespace {

template <class T, class Pass>
void filter(const ImageShape& shape, const double* taps, const Pass& pass, double* partial, const Stream& stream) {
  FilterKernel<T, Pass> kernel{};
  kernel.rows = int32_t(shape.rows);
  kernel.width = int32_t(shape.width);
  kernel.channels = int32_t(shape.channels);
  kernel.tiles_x = int32_t(blocks_for(shape.width, kImageTile));
  kernel.tiles_y = int32_t(blocks_for(shape.rows, kImageTile));
  kernel.pass = pass;
  kernel.partial = partial;
  double values[kWindowTaps], total = 0.0;
  for (int k = 0; k < kWindowTaps; ++k) {
    const double offset = (k - kWindowRadius) / 1.5;
    total += values[k] = std::exp(-0.5 * offset * offset);
  }
  for (int k = 0; k < kWindowTaps; ++k) kernel.taps[k] = T(taps ? taps[k] : values[k] / total);
  Queue(stream).launch(image_partials(shape), kernel);
}

void add_up(const double* partial, int64_t count, double* sum, const Stream& stream) {
  if (sum == nullptr) return;
  SumKernel kernel{};
  kernel.partial = partial;
  kernel.out = sum;
  kernel.first[1] = count;
  Queue(stream).launch(1, kernel);
}

}  // namespace

int64_t image_partials(const ImageShape& shape) {
  return shape.views * shape.channels * blocks_for(shape.rows, kImageTile) * blocks_for(shape.width, kImageTile);
}
int64_t pixel_partials(int64_t count) {
  return blocks_for(count, PixelLossKernel<float>::kThreads * PixelLossKernel<float>::kEach);
}

template <class T>
void image_filter(const ImageShape& shape, const double* taps, const T* in, T* out, const Stream& stream) {
  filter<T>(shape, taps, FilterPass<T>{in, out}, nullptr, stream);
}
template <class T>
void ssim_target(const ImageShape& shape, const T* image, T* mean, T* variance, const Stream& stream) {
  filter<T>(shape, nullptr, SsimTargetPass<T>{image, mean, variance}, nullptr, stream);
}
template <class T>
void ssim_value(const ImageShape& shape, const T* x, const SsimTarget<T>& target, T* ssim, T* a, T* b, T* c,
                double* partial, double* sum, const Stream& stream) {
  filter<T>(shape, nullptr, SsimValuePass<T>{x, target, ssim, a, b, c}, partial, stream);
  add_up(partial, image_partials(shape), sum, stream);
}
template <class T>
void ssim_vjp(const ImageShape& shape, const T* x, const T* y, const SsimPartials<T>& partials, const T* u, double scale,
              bool accumulate, T* out, const Stream& stream) {
  const SsimVjpPass<T> pass{x, y, partials, u, nullptr, accumulate ? out : nullptr, nullptr, T(scale), out};
  filter<T>(shape, nullptr, pass, nullptr, stream);
}
template <class T>
void ssim_jvp(const ImageShape& shape, const T* x, const T* y, const SsimPartials<T>& partials, const T* v, T* out,
              const Stream& stream) {
  filter<T>(shape, nullptr, SsimJvpPass<T>{x, y, partials, v, out}, nullptr, stream);
}
template <class T>
void ssim_partials_jvp(const ImageShape& shape, const T* x, const SsimTarget<T>& target, const T* v, T* a, T* b, T* c,
                       const Stream& stream) {
  filter<T>(shape, nullptr, SsimPartialsJvpPass<T>{x, target, v, a, b, c}, nullptr, stream);
}
template <class T>
void ssim_curvature(const ImageShape& shape, const T* x, const T* y, const SsimPartials<T>& partials, const T* window,
                    const T* weights, T* change, T* image, const Stream& stream) {
  filter<T>(shape, nullptr, SsimJvpPass<T>{x, y, partials, image, change}, nullptr, stream);
  // every pixel of `image` is read by the thread that writes it
  filter<T>(shape, nullptr, SsimVjpPass<T>{x, y, partials, change, window, image, weights, T(1), image}, nullptr, stream);
}

template <class T>
void pixel_loss(int64_t count, Penalty penalty, double delta, double scale, const T* x, const T* y, const T* signs,
                T* gradient, double* partial, double* sum, const Stream& stream) {
  Queue(stream).launch(pixel_partials(count),
                       PixelLossKernel<T>{count, penalty, T(delta), T(scale), x, y, signs, gradient, partial});
  add_up(partial, pixel_partials(count), sum, stream);
}

#define NS_INSTANTIATE(T)                                                                                               \
  template void image_filter(const ImageShape&, const double*, const T*, T*, const Stream&);                                \
  template void ssim_target(const ImageShape&, const T*, T*, T*, const Stream&);                                            \
  template void ssim_value(const ImageShape&, const T*, const SsimTarget<T>&, T*, T*, T*, T*, double*, double*,         \
                           const Stream&);                                                                                  \
  template void ssim_vjp(const ImageShape&, const T*, const T*, const SsimPartials<T>&, const T*, double, bool, T*,     \
                         const Stream&);                                                                                    \
  template void ssim_jvp(const ImageShape&, const T*, const T*, const SsimPartials<T>&, const T*, T*, const Stream&);       \
  template void ssim_partials_jvp(const ImageShape&, const T*, const SsimTarget<T>&, const T*, T*, T*, T*, const Stream&);  \
  template void ssim_curvature(const ImageShape&, const T*, const T*, const SsimPartials<T>&, const T*, const T*, T*,   \
                               T*, const Stream&);                                                                          \
  template void pixel_loss(int64_t, Penalty, double, double, const T*, const T*, const T*, T*, double*, double*,        \
                           const Stream&);
NS_INSTANTIATE(float)
#if !defined(__CUDACC__)
NS_INSTANTIATE(double)
#endif

}  // namespace cuda
}  // namespace ns_diff3r
