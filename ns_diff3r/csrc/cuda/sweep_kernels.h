// SPDX-License-Identifier: Apache-2.0
// jvp, vjp and their fusion, the Gauss-Newton product. Forward as the rendering, with tangents; backward from the last
// contributing pair to the first, with B the (cotangent-weighted) colour of what lies behind:
//   T_i = T_{i+1} / (1 - alpha_i),   dI/dalpha_i = T_i (c_i - B_i),   B_{i-1} = B_i + alpha_i (c_i - B_i).
// The division is harmless: it undoes a product by the same number, so T keeps its relative precision. Alphas are computed
// again rather than kept: per pair that costs less than moving eight bytes.
#pragma once
#include "tile.h"

namespace ns_diff3r {
namespace cuda {

template <class T, bool Frozen>
using ForwardBatch = Batch<T, 128, 0, 0, true, Frozen>;

// dI of one pixel; leaves the transmittance behind its last pair.
template <bool Frozen, class B, class Block, class T>
NS_KERNEL void sweep_forward(Block& block, B& batch, const Scene<T>& scene, const TilePixel<T>& p,
                             const TangentRecord<T>* tangents, int stop, int reached, T (&d_rgb)[3], T& transmittance) {
  T d_transmittance = T(0);
  transmittance = T(1);
  d_rgb[0] = d_rgb[1] = d_rgb[2] = T(0);
  for (int start = 0; start < reached;) {
    const int count = load_batch(block, batch, scene, tangents, p.first + start, 1, reached - start);
    const CellList list = list_cells(block, batch, count, p.warp, p.lane);
    for (int k = 0; k < list.own; ++k) {
      const int j = batch.lists[p.cell][k];
      if (start + j >= stop) break;
      const Record<T>& g = batch.records[j];
      const PairAlpha<T> pair = pair_alpha<Frozen>(scene.config, g, batch.origin(j), p.x, p.y);
      if (!pair.contributes) continue;
      const TangentRecord<T>& t = batch.tangents[j];
      const T weight = transmittance * pair.alpha;
      const T d_weight = transmittance * pair.slope * relative_tangent(t, pair.dx, pair.dy) + pair.alpha * d_transmittance;
      d_transmittance -= d_weight;
      d_rgb[0] += d_weight * g.red + weight * t.color[0];
      d_rgb[1] += d_weight * g.green + weight * t.color[1];
      d_rgb[2] += d_weight * g.blue + weight * t.color[2];
      transmittance *= passed_on(pair.alpha);
    }
    start += count;
  }
  const T* background = scene.background + 3 * p.view;
  for (int c = 0; c < 3; ++c) d_rgb[c] += d_transmittance * background[c];
}

// Sums of the vjp into the slots: the moments 1, dx, dy, dx², dx dy, dy² of s = slope dL/dalpha, then Σ w u for the three
// colours and (ten numbers) the depth.
template <bool Frozen, class B, class Block, class T>
NS_KERNEL void sweep_backward(Block& block, B& batch, const Scene<T>& scene, const TilePixel<T>& p, int stop, int reached,
                              T transmittance, const T (&u)[3], T u_alpha, T u_depth, T* slots) {
  constexpr bool kDepth = B::kSums == 10;
  const T* background = scene.background + 3 * p.view;
  T behind = u[0] * background[0] + u[1] * background[1] + u[2] * background[2];
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
      T sums[B::kSums];
      for (int i = 0; i < B::kSums; ++i) sums[i] = T(0);
      if (pair.contributes) {
        const Record<T>& g = batch.records[j];
        transmittance *= reciprocal(passed_on(pair.alpha));
        T own = u[0] * g.red + u[1] * g.green + u[2] * g.blue;
        if constexpr (kDepth) own += u_depth * g.depth + u_alpha;
        const T difference = own - behind;
        behind += pair.alpha * difference;
        const T weight = transmittance * pair.alpha, s = transmittance * pair.slope * difference;
        const T sx = s * pair.dx, sy = s * pair.dy;
        sums[0] = s, sums[1] = sx, sums[2] = sy;
        sums[3] = sx * pair.dx, sums[4] = sx * pair.dy, sums[5] = sy * pair.dy;
        sums[6] = weight * u[0], sums[7] = weight * u[1], sums[8] = weight * u[2];
        if constexpr (kDepth) sums[9] = weight * u_depth;
      }
      sum_cell(block, batch, j, p.cell, p.lane, block.ballot(pair.contributes) != 0, sums);
    }
    write_slots(block, batch, count, slots);
    end -= count;
  }
}

template <class T, bool Frozen>
struct JvpKernel {
  static constexpr int kThreads = kTileThreads, kBlocksPerMultiprocessor = 4;
  using Shared = ForwardBatch<T, Frozen>;
  Scene<T> scene;
  const TangentRecord<T>* tangents;
  T* out;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& batch) const {
    const TilePixel<T> p = tile_pixel(scene, block.index(), block.thread());
    const int stop = p.inside ? scene.stops[p.pixel] : 0;
    const int reached = largest_in_block(block, stop, batch.warp_totals);
    T d_rgb[3], transmittance;
    sweep_forward<Frozen>(block, batch, scene, p, tangents, stop, reached, d_rgb, transmittance);
    if (p.inside)
      for (int c = 0; c < 3; ++c) out[3 * p.pixel + c] = d_rgb[c];
  }
};

template <class T, bool Frozen, bool Depth>
struct VjpKernel {
  static constexpr int kThreads = kTileThreads, kBlocksPerMultiprocessor = 4;
  using Shared = Batch<T, 128, Depth ? 10 : 9, 512, false, Frozen>;
  Scene<T> scene;
  ImageCotangents<T> u;
  T* slots;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& batch) const {
    const TilePixel<T> p = tile_pixel(scene, block.index(), block.thread());
    const int stop = p.inside ? scene.stops[p.pixel] : 0;
    const int reached = largest_in_block(block, stop, batch.warp_totals);
    T u_rgb[3] = {T(0), T(0), T(0)}, u_alpha = T(0), u_depth = T(0), transmittance = T(1);
    if (p.inside) {
      if (u.rgb)
        for (int c = 0; c < 3; ++c) u_rgb[c] = u.rgb[3 * p.pixel + c];
      if constexpr (Depth) {
        if (u.alpha) u_alpha = u.alpha[p.pixel];
        if (u.depth_sum) u_depth = u.depth_sum[p.pixel];
      }
      transmittance = scene.transmittances[p.pixel];
    }
    clear_slots<Shared>(block, scene, p, reached, slots);
    sweep_backward<Frozen>(block, batch, scene, p, stop, reached, transmittance, u_rgb, u_alpha, u_depth, slots);
  }
};

// Both sweeps of JᵀWJv for a diagonal W [V, H, W, 3]; nothing but the slots leaves the multiprocessor.
template <class T, bool Frozen>
struct GaussNewtonKernel {
  static constexpr int kThreads = kTileThreads, kBlocksPerMultiprocessor = 4;
  union Shared {
    ForwardBatch<T, Frozen> forward;
    Batch<T, 128, 9, 512, false, Frozen> backward;
  };
  Scene<T> scene;
  const TangentRecord<T>* tangents;
  const T* weights;
  T* slots;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    const TilePixel<T> p = tile_pixel(scene, block.index(), block.thread());
    const int stop = p.inside ? scene.stops[p.pixel] : 0;
    const int reached = largest_in_block(block, stop, shared.forward.warp_totals);
    T u[3], transmittance;
    sweep_forward<Frozen>(block, shared.forward, scene, p, tangents, stop, reached, u, transmittance);
    if (p.inside)
      for (int c = 0; c < 3; ++c) u[c] *= weights[3 * p.pixel + c];
    clear_slots<Batch<T, 128, 9, 512, false, Frozen>>(block, scene, p, reached, slots);
    sweep_backward<Frozen>(block, shared.backward, scene, p, stop, reached, transmittance, u, T(0), T(0), slots);
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
