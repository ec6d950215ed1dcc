// SPDX-License-Identifier: Apache-2.0
// Sums over the lanes of several vectors at once.
#pragma once
#include "simd.h"

namespace ns_diff3r {
namespace NS_ISA {

// Sums over the lanes of N vectors at once, N <= 16, by a transposing tree: at each level the first half of the vectors
// merges with the second, so that one holds half sums of both, and a vector left over adds its own halves. Item i ends
// in lane sum_lane(i, N); that order costs the fewest shuffles.
constexpr int sum_lane(int item, int count) {
  int lane = 0;
  for (int stride = 8; stride >= 1; stride /= 2) {
    const int half = (count + 1) / 2;
    if (item >= half) {
      lane += stride;
      item -= half;
    }
    count = half;
  }
  return lane;
}

// Lanes whose Stride bit is 0 collect the half sums of a, the others those of b. Stride is below the register's width.
template <int Stride, class T>
NS_HD typename Lanes<T>::Register merge_halves(const typename Lanes<T>::Register& a, const typename Lanes<T>::Register& b) {
  typedef typename LaneTraits<T>::Int Index __attribute__((vector_size(NS_SIMD_BYTES)));
  constexpr int n = Lanes<T>::width;
  Index low, high;
  for (int i = 0; i < n; ++i) {
    const bool second = (i / Stride) % 2 == 1;
    low[i] = (i & ~Stride) + (second ? n : 0);
    high[i] = (i | Stride) + (second ? n : 0);
  }
  return shuffle_pair(a, b, low) + shuffle_pair(a, b, high);
}

template <int Stride, int Count, class T>
NS_HD void sum_level(Lanes<T>* x) {
  constexpr int half = (Count + 1) / 2, width = Lanes<T>::width, registers = Lanes<T>::registers;
  for (int i = 0; i < half; ++i) {
    const bool single = i + half >= Count;
    const Lanes<T>& a = x[i];
    const Lanes<T>& b = x[single ? i : i + half];
    Lanes<T> out;
    if constexpr (Stride >= width) {
      // whole registers: those whose number has the stride's bit collect b
      constexpr int step = Stride / width;
      for (int r = 0; r < registers; ++r)
        out.r[r] = (r / step) % 2 == 1 ? b.r[r - step] + b.r[r] : a.r[r] + a.r[r + step];
    } else {
      for (int r = 0; r < registers; ++r) out.r[r] = merge_halves<Stride, T>(a.r[r], b.r[r]);
    }
    x[i] = out;
  }
}

template <class T, int N>
NS_HD Lanes<T> sum_lanes(Lanes<T> (&x)[N]) {
  static_assert(N <= kLanes, "one lane a sum");
  constexpr int n1 = (N + 1) / 2, n2 = (n1 + 1) / 2, n3 = (n2 + 1) / 2;
  sum_level<8, N>(x);
  sum_level<4, n1>(x);
  sum_level<2, n2>(x);
  sum_level<1, n3>(x);
  return x[0];
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
