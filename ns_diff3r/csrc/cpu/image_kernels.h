// SPDX-License-Identifier: Apache-2.0
// Rows of the window filter and of the SSIM passes, and chunks of the pixel penalties; see image_ops.h.
#pragma once
#include "../math/ssim.h"
#include "image_ops.h"
#include "simd.h"
#include "solver_kernels.h"

namespace ns_diff3r {
namespace NS_ISA {

// How the element(s) at a flat index are read: one number, or sixteen at once.
template <class V>
struct Reader;
template <>
struct Reader<float> {
  float operator()(const float* p, int64_t i) const { return p[i]; }
};
template <>
struct Reader<double> {
  double operator()(const double* p, int64_t i) const { return p[i]; }
};
template <class T>
struct Reader<Lanes<T>> {
  NS_HD Lanes<T> operator()(const T* p, int64_t i) const { return Lanes<T>::load(p + i); }
};

NS_HD void write(float* p, float x) { *p = x; }
NS_HD void write(double* p, double x) { *p = x; }
template <class T>
NS_HD void write(T* p, const Lanes<T>& x) {
  x.store(p);
}

// Vertical sums at flat indices begin… of row r, of M images that `load` computes from the inputs on the fly.
template <int M, class V, class T, class Load>
NS_HD void vertical_sums(int64_t begin, int64_t length, int first, int last, const T* taps, const Load& load,
                         V (&sums)[M]) {
  for (int m = 0; m < M; ++m) sums[m] = V(T(0));
  for (int k = first; k < last; ++k) {
    V value[M];
    load(Reader<V>{}, begin + (k - kWindowRadius) * length, value);
    for (int m = 0; m < M; ++m) sums[m] += V(taps[k]) * value[m];
  }
}

template <class V, class T>
NS_HD V horizontal_sum(const T* in, int64_t stride, const T* taps) {
  V sum(T(0));
  for (int k = 0; k < kWindowTaps; ++k) sum += V(taps[k]) * Reader<V>{}(in, k * stride);
  return sum;
}

// Filters one row of M images and hands over its elements, sixteen or one at a time:
//   load(read, i, value)   value[m] of image m at flat index i, read from the inputs by read(pointer, i)
//   use(read, i, value)    value[m] of filtered image m at flat index i
// The cutting into lanes is fixed. scratch holds M padded rows, whose margins are zero.
template <int M, class T, class Load, class Use>
NS_HD void filter_images(const FilterPass<T>& pass, int64_t r, T* scratch, const Load& load, const Use& use) {
  const int64_t length = pass.shape.row_length(), channels = pass.shape.channels, pad = kWindowRadius * channels;
  const int64_t pitch = length + 2 * pad, row = r % pass.shape.rows;
  const int64_t below = pass.shape.rows + kWindowRadius - row;
  const int first = row < kWindowRadius ? static_cast<int>(kWindowRadius - row) : 0;
  const int last = below < kWindowTaps ? static_cast<int>(below) : kWindowTaps;
  const auto vertical = [&](int64_t j, auto zero) {
    using V = decltype(zero);
    V sums[M];
    vertical_sums<M, V>(r * length + j, length, first, last, pass.taps, load, sums);
    for (int m = 0; m < M; ++m) write(scratch + m * pitch + pad + j, sums[m]);
  };
  const auto horizontal = [&](int64_t j, auto zero) {
    using V = decltype(zero);
    V value[M];
    for (int m = 0; m < M; ++m) value[m] = horizontal_sum<V>(scratch + m * pitch + j, channels, pass.taps);
    use(Reader<V>{}, r * length + j, value);
  };
  int64_t j = 0;
  for (; j + kLanes <= length; j += kLanes) vertical(j, Lanes<T>(T(0)));
  for (; j < length; ++j) vertical(j, T(0));
  for (j = 0; j + kLanes <= length; j += kLanes) horizontal(j, Lanes<T>(T(0)));
  for (; j < length; ++j) horizontal(j, T(0));
}

template <class T>
void filter_row(const FilterPass<T>& p, int64_t row, T* scratch) {
  filter_images<1>(
      p, row, scratch, [&](auto read, int64_t i, auto* value) { value[0] = read(p.x, i); },
      [&](auto, int64_t i, const auto* value) { write(p.out[0] + i, value[0]); });
}

template <class T>
void ssim_target_row(const FilterPass<T>& p, int64_t row, T* scratch) {
  filter_images<2>(
      p, row, scratch,
      [&](auto read, int64_t i, auto* value) {
        value[0] = read(p.y, i);
        value[1] = value[0] * value[0];
      },
      [&](auto, int64_t i, const auto* value) {
        write(p.out[0] + i, value[0]);
        write(p.out[1] + i, value[1] - value[0] * value[0]);
      });
}

template <class T>
void ssim_value_row(const FilterPass<T>& p, int64_t row, T* scratch) {
  filter_images<3>(
      p, row, scratch,
      [&](auto read, int64_t i, auto* value) {
        value[0] = read(p.x, i);
        value[1] = value[0] * value[0];
        value[2] = value[0] * read(p.y, i);
      },
      [&](auto read, int64_t i, const auto* value) {
        const auto w = window_of(value[0], value[1], value[2], read(p.target_mean, i), read(p.target_variance, i));
        write(p.out[0] + i, w.ssim);
        write(p.out[1] + i, w.partial_mean);
        write(p.out[2] + i, w.partial_square);
        write(p.out[3] + i, w.partial_product);
      });
}

template <class T>
void ssim_vjp_row(const FilterPass<T>& p, int64_t row, T* scratch) {
  const SsimPartials<T> partials = p.partials;
  const auto use = [&](auto read, int64_t i, const auto* value) {
    auto result = value[0] + read(p.y, i) * value[2];
    const auto x = read(p.x, i);
    result += (x + x) * value[1];
    result *= p.scale;
    if (p.accumulate) result += read(p.out[0], i);
    write(p.out[0] + i, result);
  };
  if (p.u == nullptr) {
    const auto load = [&](auto read, int64_t i, auto* value) {
      value[0] = read(partials.mean, i);
      value[1] = read(partials.square, i);
      value[2] = read(partials.product, i);
    };
    filter_images<3>(p, row, scratch, load, use);
  } else {
    const auto load = [&](auto read, int64_t i, auto* value) {
      const auto u = read(p.u, i);
      value[0] = read(partials.mean, i) * u;
      value[1] = read(partials.square, i) * u;
      value[2] = read(partials.product, i) * u;
    };
    filter_images<3>(p, row, scratch, load, use);
  }
}

template <class T>
void ssim_jvp_row(const FilterPass<T>& p, int64_t row, T* scratch) {
  filter_images<3>(
      p, row, scratch,
      [&](auto read, int64_t i, auto* value) {
        const auto v = read(p.u, i);
        value[0] = v;
        value[1] = read(p.x, i) * (v + v);
        value[2] = read(p.y, i) * v;
      },
      [&](auto read, int64_t i, const auto* value) {
        write(p.out[0] + i, read(p.partials.mean, i) * value[0] + read(p.partials.square, i) * value[1] +
                                read(p.partials.product, i) * value[2]);
      });
}

template <class T>
void ssim_partials_jvp_row(const FilterPass<T>& p, int64_t row, T* scratch) {
  filter_images<6>(
      p, row, scratch,
      [&](auto read, int64_t i, auto* value) {
        const auto x = read(p.x, i), y = read(p.y, i), v = read(p.u, i);
        value[0] = x;
        value[1] = x * x;
        value[2] = x * y;
        value[3] = v;
        value[4] = x * (v + v);
        value[5] = y * v;
      },
      [&](auto read, int64_t i, const auto* value) {
        const auto w = window_of(value[0], value[1], value[2], read(p.target_mean, i), read(p.target_variance, i));
        const auto d = window_jvp(w, value[3], value[4], value[5]);
        write(p.out[0] + i, d.mean);
        write(p.out[1] + i, d.square);
        write(p.out[2] + i, d.product);
      });
}

// gradient = scale·derivative, Σ value in double, where rule(e, signs, value, derivative) gives both for e = x − y.
template <class T, class Rule>
NS_HD double pixel_sum(const PixelPass<T>& p, int64_t begin, int64_t end, const Rule& rule) {
  double sums[kLanes] = {};
  const auto sixteen = [&](const T* x, const T* y, const T* signs, T* gradient) {
    T values[kLanes];
    Lanes<T> value, derivative;
    rule(Lanes<T>::load(x) - Lanes<T>::load(y), signs, value, derivative);
    (Lanes<T>(p.scale) * derivative).store(gradient);
    value.store(values);
    for (int l = 0; l < kLanes; ++l) sums[l] += static_cast<double>(values[l]);
  };
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes)
    sixteen(p.x + i, p.y + i, p.signs ? p.signs + i : nullptr, p.gradient + i);
  if (i < end) {  // the last few, beside zeros: e = 0 costs nothing in every penalty
    T x[kLanes] = {}, y[kLanes] = {}, signs[kLanes] = {}, gradient[kLanes];
    for (int64_t l = 0; i + l < end; ++l) {
      x[l] = p.x[i + l];
      y[l] = p.y[i + l];
      if (p.signs) signs[l] = p.signs[i + l];
    }
    sixteen(x, y, p.signs ? signs : nullptr, gradient);
    for (int64_t l = 0; i + l < end; ++l) p.gradient[i + l] = gradient[l];
  }
  double total = 0.0;
  for (double value : sums) total += value;
  return total;
}

template <class T>
double pixel_loss(const PixelPass<T>& p, int64_t begin, int64_t end) {
  using V = Lanes<T>;
  const V delta(p.delta), zero(T(0)), one(T(1)), two(T(2)), half(T(0.5));
  switch (p.penalty) {
    case Penalty::mse:
      return pixel_sum(p, begin, end, [=](const V& e, const T*, V& value, V& derivative) {
        value = e * e;
        derivative = two * e;
      });
    case Penalty::huber:
      return pixel_sum(p, begin, end, [=](const V& e, const T*, V& value, V& derivative) {
        derivative = min(max(e, -delta), delta);
        value = derivative * (e - half * derivative);
      });
    case Penalty::l1:
      break;
  }
  return pixel_sum(p, begin, end, [=](const V& e, const T* signs, V& value, V& derivative) {
    derivative = signs ? V::load(signs) : keep(e > zero, one) - keep(e < zero, one);
    value = derivative * e;
  });
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
