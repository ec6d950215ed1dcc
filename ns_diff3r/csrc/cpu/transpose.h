// SPDX-License-Identifier: Apache-2.0
// Rows of a few numbers to lanes and back: by shuffles where one register holds all sixteen lanes, else one by one.
#pragma once
#include "simd.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
constexpr bool one_register() {
  return Lanes<T>::registers == 1;
}

// out[k] = lanes p[Width * l + k]
template <int Width, class T>
NS_HD void deinterleave(const T* p, Lanes<T> (&out)[Width]) {
  if constexpr (Width == 1) {
    out[0] = Lanes<T>::load(p);
  } else if constexpr (one_register<T>() && (Width == 3 || Width == 4)) {
    typedef typename LaneTraits<T>::Int Index __attribute__((vector_size(NS_SIMD_BYTES)));
    Lanes<T> in[Width];
    for (int i = 0; i < Width; ++i) in[i] = Lanes<T>::load(p + i * kLanes);
    for (int k = 0; k < Width; ++k) {
      Index first, second, third;
      for (int l = 0; l < kLanes; ++l) {
        const int source = Width * l + k;
        first[l] = source < 2 * kLanes ? source : 0;
        second[l] = source < 2 * kLanes ? 0 : source - 2 * kLanes;
        third[l] = source < 2 * kLanes ? l : l + kLanes;
      }
      const auto low = shuffle_pair(in[0].r[0], in[1].r[0], first);
      if constexpr (Width == 3) {
        // source - 2 * kLanes < kLanes: one shuffle takes the rest from the third register
        for (int l = 0; l < kLanes; ++l) third[l] = Width * l + k < 2 * kLanes ? l : Width * l + k - kLanes;
        out[k].r[0] = shuffle_pair(low, in[2].r[0], third);
      } else {
        const auto high = shuffle_pair(in[2].r[0], in[Width - 1].r[0], second);
        out[k].r[0] = shuffle_pair(low, high, third);
      }
    }
  } else {
    for (int k = 0; k < Width; ++k) {
      alignas(64) T lane[kLanes];
      for (int l = 0; l < kLanes; ++l) lane[l] = p[Width * l + k];
      out[k] = Lanes<T>::load(lane);
    }
  }
}

// p[Width * l + k] = lane l of x[k]
template <int Width, class T>
NS_HD void interleave(const Lanes<T> (&x)[Width], T* p) {
  if constexpr (Width == 1) {
    x[0].store(p);
  } else if constexpr (one_register<T>() && (Width == 3 || Width == 4)) {
    typedef typename LaneTraits<T>::Int Index __attribute__((vector_size(NS_SIMD_BYTES)));
    for (int i = 0; i < Width; ++i) {
      Index first, second, third;
      for (int m = 0; m < kLanes; ++m) {
        const int column = (i * kLanes + m) % Width, row = (i * kLanes + m) / Width;
        first[m] = column < 2 ? row + column * kLanes : 0;
        second[m] = column >= 2 ? row + (column - 2) * kLanes : 0;
        third[m] = column < 2 ? m : m + kLanes;
      }
      const auto low = shuffle_pair(x[0].r[0], x[1].r[0], first);
      const auto high = shuffle_pair(x[2].r[0], x[Width - 1].r[0], second);
      Lanes<T> out;
      out.r[0] = shuffle_pair(low, high, third);
      out.store(p + i * kLanes);
    }
  } else {
    for (int k = 0; k < Width; ++k) {
      alignas(64) T lane[kLanes];
      x[k].store(lane);
      for (int l = 0; l < kLanes; ++l) p[Width * l + k] = lane[l];
    }
  }
}

// Exchanges the off-diagonal Stride x Stride quarters of every 2 Stride x 2 Stride square.
template <int Stride, class T>
NS_HD void transpose_level(Lanes<T> (&x)[kLanes]) {
  typedef typename LaneTraits<T>::Int Index __attribute__((vector_size(NS_SIMD_BYTES)));
  Index low, high;
  for (int i = 0; i < kLanes; ++i) {
    const bool second = (i / Stride) % 2 == 1;
    low[i] = second ? (i & ~Stride) + kLanes : i;
    high[i] = second ? i + kLanes : (i | Stride);
  }
#pragma GCC unroll 8
  for (int pair = 0; pair < kLanes / 2; ++pair) {
    const int j = (pair / Stride) * 2 * Stride + pair % Stride;
    const auto a = x[j].r[0], b = x[j + Stride].r[0];
    x[j].r[0] = shuffle_pair(a, b, low);
    x[j + Stride].r[0] = shuffle_pair(a, b, high);
  }
}

// A 16x16 transpose in place.
template <class T>
NS_HD void transpose(Lanes<T> (&x)[kLanes]) {
  if constexpr (one_register<T>()) {
    transpose_level<8>(x);
    transpose_level<4>(x);
    transpose_level<2>(x);
    transpose_level<1>(x);
  } else {
    alignas(64) T rows[kLanes][kLanes];
    for (int j = 0; j < kLanes; ++j) x[j].store(rows[j]);
    for (int j = 0; j < kLanes; ++j) {
      alignas(64) T column[kLanes];
      for (int l = 0; l < kLanes; ++l) column[l] = rows[l][j];
      x[j] = Lanes<T>::load(column);
    }
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
