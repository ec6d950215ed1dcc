// SPDX-License-Identifier: Apache-2.0
// The sweep of the vjp on dual numbers: records + ε tangents (as those of the jvp), u + ε du.
#pragma once
#include "../math/dual.h"
#include "sweep_kernels.h"

namespace ns_diff3r {
namespace cuda {

// A slot holds the nine sums' values, then their tangents at fixed dx and dy: how these move is the same for all pixels
// (`move_moments`).
template <class T, bool Frozen>
struct VjpTangentKernel {
  static constexpr int kThreads = kTileThreads, kBlocksPerMultiprocessor = 2;
  using Shared = Batch<T, 64, 18, 384, true, Frozen>;
  using D = Dual<T>;
  Scene<T> scene;
  const TangentRecord<T>* tangents;
  const T *u_image, *du_image;
  T* slots;

  NS_KERNEL D dual_alpha(const PairAlpha<T>& pair, const TangentRecord<T>& t) const {
    return D(pair.alpha, pair.slope * relative_tangent(t, pair.dx, pair.dy));
  }
  // 1 - alpha, with the bound of `passed_on`
  NS_KERNEL D dual_passed_on(const D& alpha) const { return D(passed_on(alpha.v), -alpha.d); }

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& batch) const {
    const TilePixel<T> p = tile_pixel(scene, block.index(), block.thread());
    const int stop = p.inside ? scene.stops[p.pixel] : 0;
    const int reached = largest_in_block(block, stop, batch.warp_totals);
    clear_slots<Shared>(block, scene, p, reached, slots);
    D transmittance(T(1), T(0));
    for (int start = 0; start < reached;) {
      const int count = load_batch(block, batch, scene, tangents, p.first + start, 1, reached - start);
      const CellList list = list_cells(block, batch, count, p.warp, p.lane);
      for (int k = 0; k < list.own; ++k) {
        const int j = batch.lists[p.cell][k];
        if (start + j >= stop) break;
        const PairAlpha<T> pair = pair_alpha<Frozen>(scene.config, batch.records[j], batch.origin(j), p.x, p.y);
        if (pair.contributes) transmittance = transmittance * dual_passed_on(dual_alpha(pair, batch.tangents[j]));
      }
      start += count;
    }
    D u[3] = {D(T(0), T(0)), D(T(0), T(0)), D(T(0), T(0))};
    if (p.inside)
      for (int c = 0; c < 3; ++c) u[c] = D(u_image[3 * p.pixel + c], du_image[3 * p.pixel + c]);
    const T* background = scene.background + 3 * p.view;
    D behind = u[0] * background[0] + u[1] * background[1] + u[2] * background[2];
    for (int end = reached; end > 0;) {
      const int count = load_batch(block, batch, scene, tangents, p.first + end - 1, -1, end);
      const CellList list = list_cells(block, batch, count, p.warp, p.lane);
      for (int k = 0; k < list.turns; ++k) {
        const int j = k < list.own ? batch.lists[p.cell][k] : -1;
        PairAlpha<T> pair;
        pair.contributes = false;
        if (j >= 0 && end - 1 - j < stop)
          pair = pair_alpha<Frozen>(scene.config, batch.records[j], batch.origin(j), p.x, p.y);
        T sums[18];
        for (int i = 0; i < 18; ++i) sums[i] = T(0);
        if (pair.contributes) {
          const Record<T>& g = batch.records[j];
          const TangentRecord<T>& t = batch.tangents[j];
          const D alpha = dual_alpha(pair, t);
          transmittance = transmittance / dual_passed_on(alpha);
          const D own = u[0] * D(g.red, t.color[0]) + u[1] * D(g.green, t.color[1]) + u[2] * D(g.blue, t.color[2]);
          const D difference = own - behind;
          behind += alpha * difference;
          const D slope = pair.slope == pair.alpha ? alpha : D(pair.slope, pair.slope * relative_tangent(t, pair.dx, pair.dy));
          const D s = transmittance * slope * difference, weight = transmittance * alpha;
          const T sx = s.v * pair.dx, sy = s.v * pair.dy, tx = s.d * pair.dx, ty = s.d * pair.dy;
          sums[0] = s.v, sums[1] = sx, sums[2] = sy;
          sums[3] = sx * pair.dx, sums[4] = sx * pair.dy, sums[5] = sy * pair.dy;
          sums[9] = s.d, sums[10] = tx, sums[11] = ty;
          sums[12] = tx * pair.dx, sums[13] = tx * pair.dy, sums[14] = ty * pair.dy;
          for (int c = 0; c < 3; ++c) {
            const D w = weight * u[c];
            sums[6 + c] = w.v, sums[15 + c] = w.d;
          }
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
