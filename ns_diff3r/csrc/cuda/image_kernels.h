// SPDX-License-Identifier: Apache-2.0
// The window filter, SSIM with its products, and the pixel penalties; ../cpu/image_ops.h says what they compute.
#pragma once
#include "../cpu/image_ops.h"
#include "../math/ssim.h"
#include "queue.h"

namespace ns_diff3r {
namespace cuda {

constexpr int kImageTile = 16;
constexpr int kImageThreads = kImageTile * kImageTile;

// Filters Pass::kImages images that `pass.load` makes of its inputs, and hands the results to `pass.use`, which may return
// a number to be summed over the images: partial [blocks]. A block has 16x16 pixels of one channel; the window's rows
// first, from the tile and its margin in shared memory, then the columns.
template <class T, class Pass>
struct FilterKernel {
  static constexpr int kThreads = kImageThreads, kBlocksPerMultiprocessor = 4;
  static constexpr int kImages = Pass::kImages, kSide = kImageTile + 2 * kWindowRadius;
  struct Shared {
    T in[kImages][kSide][kSide];
    T rows[kImages][kSide][kImageTile];
    double partial[kThreads / kWarp];
  };
  int32_t rows, width, channels, tiles_x, tiles_y;
  T taps[kWindowTaps];
  Pass pass;
  double* partial;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    const int channel = int(block.index() % channels);
    const int64_t tile = block.index() / channels;
    const int x0 = int(tile % tiles_x) * kImageTile, y0 = int(tile / tiles_x % tiles_y) * kImageTile;
    const int64_t view = tile / (int64_t(tiles_x) * tiles_y);
    const auto flat = [&](int y, int x) { return ((view * rows + y) * width + x) * channels + channel; };
    for (int k = block.thread(); k < kSide * kSide; k += kThreads) {
      const int y = y0 + k / kSide - kWindowRadius, x = x0 + k % kSide - kWindowRadius;
      T value[kImages];
      for (int m = 0; m < kImages; ++m) value[m] = T(0);
      if (y >= 0 && y < rows && x >= 0 && x < width) pass.load(flat(y, x), value);
      for (int m = 0; m < kImages; ++m) shared.in[m][k / kSide][k % kSide] = value[m];
    }
    block.sync();
    for (int k = block.thread(); k < kSide * kImageTile; k += kThreads) {
      const int y = k / kImageTile, x = k % kImageTile;
      NS_UNROLL for (int m = 0; m < kImages; ++m) {
        T sum = T(0);
        NS_UNROLL for (int j = 0; j < kWindowTaps; ++j) sum += taps[j] * shared.in[m][y][x + j];
        shared.rows[m][y][x] = sum;
      }
    }
    block.sync();
    const int y = block.thread() / kImageTile, x = block.thread() % kImageTile;
    double own = 0.0;
    if (y0 + y < rows && x0 + x < width) {
      T value[kImages];
      NS_UNROLL for (int m = 0; m < kImages; ++m) {
        T sum = T(0);
        NS_UNROLL for (int j = 0; j < kWindowTaps; ++j) sum += taps[j] * shared.rows[m][y + j][x];
        value[m] = sum;
      }
      own = double(pass.use(flat(y0 + y, x0 + x), value));
    }
    if (partial) {
      const double sum = block_sum<kThreads>(block, own, shared.partial);
      if (block.thread() == 0) partial[block.index()] = sum;
    }
  }
};

template <class T>
struct FilterPass {
  static constexpr int kImages = 1;
  const T* in;
  T* out;
  NS_KERNEL void load(int64_t i, T* value) const { value[0] = in[i]; }
  NS_KERNEL T use(int64_t i, const T* value) const { return out[i] = value[0]; }
};

template <class T>
struct SsimTargetPass {
  static constexpr int kImages = 2;
  const T* y;
  T *mean, *variance;
  NS_KERNEL void load(int64_t i, T* value) const {
    value[0] = y[i];
    value[1] = y[i] * y[i];
  }
  NS_KERNEL T use(int64_t i, const T* value) const {
    mean[i] = value[0];
    return variance[i] = value[1] - value[0] * value[0];
  }
};

template <class T>
struct SsimValuePass {
  static constexpr int kImages = 3;
  const T* x;
  SsimTarget<T> target;
  T *ssim, *partial_mean, *partial_square, *partial_product;
  NS_KERNEL void load(int64_t i, T* value) const {
    value[0] = x[i];
    value[1] = x[i] * x[i];
    value[2] = x[i] * target.image[i];
  }
  NS_KERNEL T use(int64_t i, const T* value) const {
    const Window<T> w(value[0], value[1], value[2], target.mean[i], target.variance[i]);
    partial_mean[i] = w.partial_mean;
    partial_square[i] = w.partial_square;
    partial_product[i] = w.partial_product;
    return ssim[i] = w.ssim;
  }
};

// out = scale·Jᵀ(window∘u) + added_weight∘added; null stands for ones, and for no second term
template <class T>
struct SsimVjpPass {
  static constexpr int kImages = 3;
  const T *x, *y;
  SsimPartials<T> partials;
  const T *u, *window, *added, *added_weight;
  T scale;
  T* out;
  NS_KERNEL void load(int64_t i, T* value) const {
    T factor = u ? u[i] : T(1);
    if (window) factor *= window[i];
    value[0] = partials.mean[i] * factor;
    value[1] = partials.square[i] * factor;
    value[2] = partials.product[i] * factor;
  }
  NS_KERNEL T use(int64_t i, const T* value) const {
    T result = scale * (value[0] + y[i] * value[2] + (x[i] + x[i]) * value[1]);
    if (added) result += added_weight ? added[i] * added_weight[i] : added[i];
    return out[i] = result;
  }
};

template <class T>
struct SsimJvpPass {
  static constexpr int kImages = 3;
  const T *x, *y;
  SsimPartials<T> partials;
  const T* v;
  T* out;
  NS_KERNEL void load(int64_t i, T* value) const {
    value[0] = v[i];
    value[1] = x[i] * (v[i] + v[i]);
    value[2] = y[i] * v[i];
  }
  NS_KERNEL T use(int64_t i, const T* value) const {
    return out[i] = partials.mean[i] * value[0] + partials.square[i] * value[1] + partials.product[i] * value[2];
  }
};

template <class T>
struct SsimPartialsJvpPass {
  static constexpr int kImages = 6;
  const T* x;
  SsimTarget<T> target;
  const T* v;
  T *mean, *square, *product;
  NS_KERNEL void load(int64_t i, T* value) const {
    value[0] = x[i];
    value[1] = x[i] * x[i];
    value[2] = x[i] * target.image[i];
    value[3] = v[i];
    value[4] = x[i] * (v[i] + v[i]);
    value[5] = target.image[i] * v[i];
  }
  NS_KERNEL T use(int64_t i, const T* value) const {
    const Window<T> w(value[0], value[1], value[2], target.mean[i], target.variance[i]);
    const WindowTangents<T> d = window_jvp(w, value[3], value[4], value[5]);
    mean[i] = d.mean;
    square[i] = d.square;
    return product[i] = d.product;
  }
};

// Σ ρ(e) and gradient = scale·ρ'(e); partial [blocks].
template <class T>
struct PixelLossKernel {
  static constexpr int kThreads = 256, kBlocksPerMultiprocessor = 4, kEach = 4;
  struct Shared {
    double partial[kThreads / kWarp];
  };
  int64_t count;
  Penalty penalty;
  T delta, scale;
  const T *x, *y, *signs;
  T* gradient;
  double* partial;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    double own = 0.0;
    for (int k = 0; k < kEach; ++k) {
      const int64_t i = (block.index() * kEach + k) * kThreads + block.thread();
      if (i >= count) continue;
      const T e = x[i] - y[i];
      T value, derivative;
      if (penalty == Penalty::mse) {
        value = e * e;
        derivative = T(2) * e;
      } else if (penalty == Penalty::huber) {
        derivative = smaller(larger(e, -delta), delta);
        value = derivative * (e - T(0.5) * derivative);
      } else {
        derivative = signs ? signs[i] : T(e > T(0)) - T(e < T(0));
        value = derivative * e;
      }
      gradient[i] = scale * derivative;
      own += double(value);
    }
    const double sum = block_sum<kThreads>(block, own, shared.partial);
    if (block.thread() == 0) partial[block.index()] = sum;
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
