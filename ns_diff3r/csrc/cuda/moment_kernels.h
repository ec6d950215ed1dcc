// SPDX-License-Identifier: Apache-2.0
// The second moments that diag(JᵀWJ) and its blocks are made of: the 36 distinct numbers of Σ_pixels RᵀWR over
// (q0..q5, rgb) of every record.
#pragma once
#include "sweep_kernels.h"

namespace ns_diff3r {
namespace cuda {

// 15 moments of degree <= 4; for each colour its 6 moments of degree <= 2; the three colours.
constexpr int kMoments = 36;

template <class T, bool Frozen>
struct MomentKernel {
  static constexpr int kThreads = kTileThreads, kBlocksPerMultiprocessor = 2;
  using Shared = Batch<T, 64, kMoments, 208, false, Frozen>;
  Scene<T> scene;
  const T* weights;
  T* slots;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& batch) const {
    const TilePixel<T> p = tile_pixel(scene, block.index(), block.thread());
    const int stop = p.inside ? scene.stops[p.pixel] : 0;
    const int reached = largest_in_block(block, stop, batch.warp_totals);
    clear_slots<Shared>(block, scene, p, reached, slots);
    const T* background = scene.background + 3 * p.view;
    T w[3] = {T(0), T(0), T(0)}, behind[3] = {background[0], background[1], background[2]}, transmittance = T(1);
    if (p.inside) {
      for (int c = 0; c < 3; ++c) w[c] = weights[3 * p.pixel + c];
      transmittance = scene.transmittances[p.pixel];
    }
    for (int end = reached; end > 0;) {
      const int count =
          load_batch(block, batch, scene, static_cast<const TangentRecord<T>*>(nullptr), p.first + end - 1, -1, end);
      const CellList list = list_cells(block, batch, count, p.warp, p.lane);
      for (int k = 0; k < list.turns; ++k) {
        const int j = k < list.own ? batch.lists[p.cell][k] : -1;
        PairAlpha<T> pair;
        pair.contributes = false;
        if (j >= 0 && end - 1 - j < stop)
          pair = pair_alpha<Frozen>(scene.config, batch.records[j], batch.origin(j), p.x, p.y);
        T sums[kMoments];
        for (int i = 0; i < kMoments; ++i) sums[i] = T(0);
        if (pair.contributes) {
          const Record<T>& g = batch.records[j];
          transmittance *= reciprocal(passed_on(pair.alpha));
          const T weight = transmittance * pair.alpha, dx = pair.dx, dy = pair.dy;
          const T color[3] = {g.red, g.green, g.blue}, monomials[6] = {T(1), dx, dy, dx * dx, dx * dy, dy * dy};
          T m = T(0);
          NS_UNROLL for (int c = 0; c < 3; ++c) {
            const T difference = color[c] - behind[c];
            behind[c] += pair.alpha * difference;
            const T slope = transmittance * pair.slope * difference;
            m += w[c] * slope * slope;
            NS_UNROLL for (int i = 0; i < 6; ++i) sums[15 + 6 * c + i] = w[c] * slope * weight * monomials[i];
            sums[33 + c] = w[c] * weight * weight;
          }
          const T mxx = m * monomials[3], mxy = m * monomials[4], myy = m * monomials[5];
          sums[0] = m, sums[1] = m * dx, sums[2] = m * dy, sums[3] = mxx, sums[4] = mxy, sums[5] = myy;
          sums[6] = mxx * dx, sums[7] = mxx * dy, sums[8] = mxy * dy, sums[9] = myy * dy;
          sums[10] = mxx * monomials[3], sums[11] = mxx * monomials[4], sums[12] = mxx * monomials[5];
          sums[13] = mxy * monomials[5], sums[14] = myy * monomials[5];
        }
        sum_cell(block, batch, j, p.cell, p.lane, block.ballot(pair.contributes) != 0, sums);
      }
      write_slots(block, batch, count, slots);
      end -= count;
    }
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
