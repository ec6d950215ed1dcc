// SPDX-License-Identifier: Apache-2.0
// Front to back: I += w c, w = T alpha, T <- T (1 - alpha). A block a tile, all views in one launch.
#pragma once
#include "tile.h"

namespace ns_diff3r {
namespace cuda {

// With Frozen the pairs are those of the origin, wherever their alphas are now. `linearize`: keep each pixel's stop and
// transmittance, which the products start from, and who contributes.
template <class T, bool Frozen>
struct RenderKernel {
  static constexpr int kThreads = kTileThreads, kBlocksPerMultiprocessor = 4;
  struct Shared : Batch<T, Frozen ? 128 : 256, 0, 0, false, Frozen> {
    uint8_t seen[Frozen ? 128 : 256];  // entries that contribute to some pixel
  };
  Scene<T> scene;
  RenderOutputs<T> out;
  bool linearize;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& batch) const {
    const TilePixel<T> p = tile_pixel(scene, block.index(), block.thread());
    const RasterizationConfig<T>& config = scene.config;
    const T stop_at = Frozen ? Smallest<T>::transmittance : larger(config.transmittance_min, Smallest<T>::transmittance);
    const int limit = !p.inside ? 0 : (Frozen ? scene.origin_stops[p.pixel] : p.count);
    T transmittance = T(1), red = T(0), green = T(0), blue = T(0), depth = T(0);
    int stop = 0;
    bool alive = limit > 0;
    const int t = block.thread();
    if (t < Shared::kEntries) batch.seen[t] = 0;
    for (int start = 0; start < p.count && block.sync_count(alive) > 0; ) {
      const int count = load_batch(block, batch, scene, static_cast<const TangentRecord<T>*>(nullptr), p.first + start, 1,
                                   p.count - start);
      const CellList list = list_cells(block, batch, count, p.warp, p.lane);
      for (int k = 0; k < list.own && alive; ++k) {
        const int j = batch.lists[p.cell][k], position = start + j;
        if (position >= limit) break;
        const Record<T>& g = batch.records[j];
        const PairAlpha<T> pair = pair_alpha<Frozen>(config, g, batch.origin(j), p.x, p.y);
        if (!pair.contributes) continue;
        const T next = transmittance * passed_on(pair.alpha);
        if (next <= stop_at) {
          alive = false;
          break;
        }
        const T weight = transmittance * pair.alpha;
        red += weight * g.red;
        green += weight * g.green;
        blue += weight * g.blue;
        depth += weight * g.depth;
        transmittance = next;
        stop = position + 1;
        batch.seen[j] = 1;
      }
      if (linearize && !Frozen) {
        block.sync();
        if (t < count && batch.seen[t]) {
          batch.seen[t] = 0;
          scene.contributes[scene.entries[p.first + start + t].record - p.view * scene.num_gaussians] = 1;
        }
      }
      start += count;
      alive = alive && start < limit;
    }
    if (!p.inside) return;
    const T* background = scene.background + 3 * p.view;
    out.rgb[3 * p.pixel] = red + transmittance * background[0];
    out.rgb[3 * p.pixel + 1] = green + transmittance * background[1];
    out.rgb[3 * p.pixel + 2] = blue + transmittance * background[2];
    const T alpha = T(1) - transmittance;
    if (out.alpha) out.alpha[p.pixel] = alpha;
    if (out.depth) out.depth[p.pixel] = depth / larger(alpha, T(1e-10));
    if (linearize) {
      scene.stops[p.pixel] = stop;
      scene.transmittances[p.pixel] = transmittance;
    }
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
