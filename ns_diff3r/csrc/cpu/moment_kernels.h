// SPDX-License-Identifier: Apache-2.0
// The second moments that diag(JᵀWJ) and its blocks are made of.
#pragma once
#include "lane_sums.h"
#include "sweep_kernels.h"

namespace ns_diff3r {
namespace NS_ISA {

constexpr int kMomentSlot = 48;  // [15 moments of degree <= 4, pad] [6 red, 6 green, 3 colour, pad] [6 blue, pad]

// Per tile and record the 36 distinct numbers of Σ_pixels RᵀWR over (q0..q5, rgb).
template <class T>
void moments_tile(const PlanView<T>& plan, const T* weights, int64_t tile, void* scratch, T* slots) {
  using L = Lanes<T>;
  clear_slots(plan, tile, slots, kMomentSlot);
  SweepPair<T>* store = static_cast<SweepPair<T>*>(scratch);
  const T* background = background_of(plan, tile);
  for (int b = 0; b < kBlocksPerTile; ++b) {
    const int64_t block = tile * kBlocksPerTile + b;
    if (plan.active_counts[block] == 0) continue;
    const BlockPixels<T> pixels = block_pixels(plan, tile, b);
    L unused[3], w[3], behind[3];
    load_pixels(plan, pixels, weights, w);
    for (int c = 0; c < 3; ++c) behind[c] = L(background[c]);
    sweep_forward<T, false, true>(plan, nullptr, block, pixels, background, store, unused);
    const Active* const begin = plan.active + plan.block_offsets[block];
    for (int64_t i = int64_t(plan.active_counts[block]) - 1; i >= 0; --i) {
      const Active& entry = begin[i];
      const T* record = plan.records + int64_t(entry.record) * kRecord;
      const SweepPair<T>& pair = store[i];
      const L dx = L(record[kMeanX]) - pixels.x, dy = L(record[kMeanY]) - pixels.y;
      const L pair_slope = slope_weight(plan, entry, record, pixels, pair);
      L slope[3], m(T(0));
      for (int c = 0; c < 3; ++c) {
        const L difference = L(record[kRed + c]) - behind[c];
        behind[c] += pair.alpha * difference;
        slope[c] = pair_slope * difference;
        m += w[c] * slope[c] * slope[c];
      }
      const L xx = dx * dx, xy = dx * dy, yy = dy * dy;
      const L mxx = m * xx, mxy = m * xy, myy = m * yy;
      const L r = w[0] * slope[0] * pair.weight, g = w[1] * slope[1] * pair.weight, bl = w[2] * slope[2] * pair.weight;
      const L ww = pair.weight * pair.weight;
      T* slot = slots + int64_t(entry.slot) * kMomentSlot;
      L first[15] = {m,        m * dx,   m * dy,   mxx,      mxy,      myy,      mxx * dx, mxx * dy,
                           mxy * dy, myy * dy, mxx * xx, mxx * xy, mxx * yy, mxy * yy, myy * yy};
      (L::load(slot) + sum_lanes(first)).store(slot);
      L second[15] = {r, r * dx, r * dy, r * xx, r * xy, r * yy, g, g * dx, g * dy, g * xx, g * xy, g * yy,
                            w[0] * ww, w[1] * ww, w[2] * ww};
      (L::load(slot + 16) + sum_lanes(second)).store(slot + 16);
      L third[6] = {bl, bl * dx, bl * dy, bl * xx, bl * xy, bl * yy};
      (L::load(slot + 32) + sum_lanes(third)).store(slot + 32);
    }
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
