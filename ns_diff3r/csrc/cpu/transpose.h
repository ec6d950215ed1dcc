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
  constexpr int width = Lanes<T>::width;
  if constexpr (Stride < width) {
    typedef typename LaneTraits<T>::Int Index __attribute__((vector_size(NS_SIMD_BYTES)));
    Index low, high;
    for (int i = 0; i < width; ++i) {
      const bool second = (i / Stride) % 2 == 1;
      low[i] = second ? (i & ~Stride) + width : i;
      high[i] = second ? i + width : (i | Stride);
    }
#pragma GCC unroll 8
    for (int pair = 0; pair < kLanes / 2; ++pair) {
      const int j = (pair / Stride) * 2 * Stride + pair % Stride;
      for (int r = 0; r < Lanes<T>::registers; ++r) {
        const auto a = x[j].r[r], b = x[j + Stride].r[r];
        x[j].r[r] = shuffle_pair(a, b, low);
        x[j + Stride].r[r] = shuffle_pair(a, b, high);
      }
    }
  } else {
    constexpr int step = Stride / width;  // whole registers
#pragma GCC unroll 8
    for (int pair = 0; pair < kLanes / 2; ++pair) {
      const int j = (pair / Stride) * 2 * Stride + pair % Stride;
      for (int r = 0; r < Lanes<T>::registers; ++r) {
        if ((r / step) % 2 == 1) continue;
        const auto a = x[j].r[r + step];
        x[j].r[r + step] = x[j + Stride].r[r];
        x[j + Stride].r[r] = a;
      }
    }
  }
}

// A 16x16 transpose in place.
template <class T>
NS_HD void transpose(Lanes<T> (&x)[kLanes]) {
  transpose_level<8>(x);
  transpose_level<4>(x);
  transpose_level<2>(x);
  transpose_level<1>(x);
}

#if NS_SIMD_BYTES == 64
// One register a row: by shuffles whose pattern is part of the instruction, which are the fastest and need no registers.
NS_HD void transpose(Lanes<float> (&x)[kLanes]) {
  using R = Lanes<float>::Register;
  __m512 y[kLanes];
#pragma GCC unroll 4
  for (int k = 0; k < kLanes; k += 4) {  // the 4x4 squares of four rows
    const __m512 a = (__m512)x[k].r[0], b = (__m512)x[k + 1].r[0], c = (__m512)x[k + 2].r[0], d = (__m512)x[k + 3].r[0];
    const __m512 ab = _mm512_unpacklo_ps(a, b), ab_high = _mm512_unpackhi_ps(a, b);
    const __m512 cd = _mm512_unpacklo_ps(c, d), cd_high = _mm512_unpackhi_ps(c, d);
    y[k] = _mm512_shuffle_ps(ab, cd, 0x44);
    y[k + 1] = _mm512_shuffle_ps(ab, cd, 0xee);
    y[k + 2] = _mm512_shuffle_ps(ab_high, cd_high, 0x44);
    y[k + 3] = _mm512_shuffle_ps(ab_high, cd_high, 0xee);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {  // and the squares among themselves
    const __m512 even_low = _mm512_shuffle_f32x4(y[k], y[4 + k], 0x88), odd_low = _mm512_shuffle_f32x4(y[k], y[4 + k], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(y[8 + k], y[12 + k], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(y[8 + k], y[12 + k], 0xdd);
    x[k].r[0] = (R)_mm512_shuffle_f32x4(even_low, even_high, 0x88);
    x[4 + k].r[0] = (R)_mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    x[8 + k].r[0] = (R)_mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    x[12 + k].r[0] = (R)_mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}
#endif

}  // namespace NS_ISA
}  // namespace ns_diff3r
