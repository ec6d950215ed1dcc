// SPDX-License-Identifier: Apache-2.0
// Sums over the pixels of a block for sixteen (block, Gaussian) pairs at once. A transpose turns rows of pixels, one a
// pair, into columns of pairs, one a pixel; then the sums over pixels are plain additions, and since the pixels form a
// grid the moments separate into rows and columns. That takes half the instructions of summing each pair by itself.
#pragma once
#include "block_pixels.h"

namespace ns_diff3r {
namespace NS_ISA {

// The moments Σ s {1, p, p²} of four equally spaced samples at p = -1.5, -0.5, 0.5, 1.5.
template <class T>
NS_HD void row_moments(const Lanes<T>& s0, const Lanes<T>& s1, const Lanes<T>& s2, const Lanes<T>& s3, Lanes<T> (&m)[3]) {
  using L = Lanes<T>;
  const L inner = s1 + s2, outer = s0 + s3;
  m[0] = inner + outer;
  m[1] = (s3 - s0) * L(T(1.5)) + (s2 - s1) * L(T(0.5));
  m[2] = outer * L(T(2.25)) + inner * L(T(0.25));
}

// out[i], lane k: Σ_pixels s[k] {1, dx, dy, dx², dx dy, dy²} for d = mean - pixel; mean, of each pair, relative to the
// block's centre. Leaves s transposed.
template <class T>
NS_HD void pair_moments(Lanes<T> (&s)[kLanes], const Lanes<T>& mean_x, const Lanes<T>& mean_y, Lanes<T>* out) {
  using L = Lanes<T>;
  transpose(s);
  L column[4][3], one[3], y[3];
  for (int x = 0; x < 4; ++x) row_moments(s[x], s[4 + x], s[8 + x], s[12 + x], column[x]);
  row_moments(column[0][0], column[1][0], column[2][0], column[3][0], one);
  row_moments(column[0][1], column[1][1], column[2][1], column[3][1], y);
  const L yy = (column[0][2] + column[1][2]) + (column[2][2] + column[3][2]);
  const L &m0 = one[0], &mx = one[1], &mxx = one[2], &my = y[0], &mxy = y[1];
  out[0] = m0;
  out[1] = mean_x * m0 - mx;
  out[2] = mean_y * m0 - my;
  out[3] = mean_x * (out[1] - mx) + mxx;
  out[4] = mean_x * out[2] - (mean_y * mx - mxy);
  out[5] = mean_y * (out[2] - my) + yy;
}

// out[c], lane k: plus Σ_pixels w[pixel][k] u[c][pixel], w transposed. Two chains a channel, side by side.
template <int Channels, class T>
NS_HD void add_weighted(const Lanes<T> (&w)[kLanes], const T (*u)[kLanes], Lanes<T>* out) {
  using L = Lanes<T>;
  L even[Channels], odd[Channels];
  for (int c = 0; c < Channels; ++c) {
    even[c] = out[c];
    odd[c] = L(T(0));
  }
#pragma GCC unroll 8
  for (int p = 0; p < kLanes; p += 2)
    for (int c = 0; c < Channels; ++c) {
      even[c] += w[p] * L(u[c][p]);
      odd[c] += w[p + 1] * L(u[c][p + 1]);
    }
  for (int c = 0; c < Channels; ++c) out[c] = even[c] + odd[c];
}

// Adds lane k of the numbers to the slot of pair first[k], for k < pairs. Slots are Stride numbers apart. Leaves the
// numbers transposed.
template <int Stride, class T>
NS_HD void add_to_slots(Lanes<T> (&numbers)[kLanes], const Active* first, int pairs, T* slots) {
  using L = Lanes<T>;
  transpose(numbers);
  for (int k = 0; k < pairs; ++k) {
    T* slot = slots + int64_t(first[k].slot) * Stride;
    (L::load(slot) + numbers[k]).store(slot);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
