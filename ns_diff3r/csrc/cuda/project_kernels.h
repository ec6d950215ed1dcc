// SPDX-License-Identifier: Apache-2.0
// From raw parameters to records, and from records to the lists of tiles. One thread a (view, Gaussian) or intersection.
#pragma once
#include "gaussians.h"
#include "pair.h"
#include "queue.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
NS_KERNEL Record<T> make_record(const RasterizationConfig<T>& config, const Splat<T>& s) {
  const T log2e = T(1.4426950408889634);
  Record<T> r;
  r.mean_x = s.mean_x, r.mean_y = s.mean_y;
  r.a = s.conic_a * (T(-0.5) * log2e), r.b = s.conic_b * -log2e, r.c = s.conic_c * (T(-0.5) * log2e);
  r.opacity = s.opacity;
  r.tau = logarithm(larger(s.opacity, config.alpha_min) / config.alpha_min);
  r.depth = s.depth;
  r.red = s.color.x, r.green = s.color.y, r.blue = s.color.z;
  r.unused = T(0);
  return r;
}

template <class T>
NS_KERNEL void color_one(const Scene<T>& scene, const Camera<T>& camera, int64_t i, const Vec3<T>& mean, bool decide,
                         Decisions<bool>& decisions, Splat<T>& splat) {
  const int K = scene.num_sh_bases;
  const Vec3<T> c = color_before_clamp(K, view_direction(camera, mean, K),
                                       [&](int k) { return load_sh(scene.params, K, i, k); });
  if (decide) {
    decisions.red = c.x > T(0);
    decisions.green = c.y > T(0);
    decisions.blue = c.z > T(0);
  }
  splat.color = {decisions.red ? c.x : T(0), decisions.green ? c.y : T(0), decisions.blue ? c.z : T(0)};
}

// The tiles that the renderer's own (non-differentiable) radius touches, cut to the rectangle around the ellipse
// alpha >= alpha_min (with a margin for rounding). False if there are none or the renderer culls the splat.
template <class T>
NS_KERNEL bool tiles_of(const Scene<T>& scene, const Projected<T>& projected, T tau, Tiles& tiles) {
  const RasterizationConfig<T>& config = scene.config;
  const Splat<T>& s = projected.splat;
  const T cov_x = projected.cov_a, cov_y = projected.cov_c, size = T(kTile), half = T(0.5);
  T radius_x, radius_y;
  if (config.extent == Extent::opacity_aware) {
    const T sigmas = smaller(T(3.33), sqrt(tau * T(2)));
    radius_x = ceil(sigmas * sqrt(cov_x));
    radius_y = ceil(sigmas * sqrt(cov_y));
  } else {
    const T half_trace = (cov_x + cov_y) * half;
    const T det = T(1) / projected.inverse_det;
    const T largest = half_trace + sqrt(larger(config.eigenvalue_floor, half_trace * half_trace - det));
    radius_x = radius_y = ceil(T(3) * sqrt(largest));
  }
  if (!(s.opacity >= config.alpha_min && projected.inverse_det > T(0) &&
        (radius_x > config.radius_clip || radius_y > config.radius_clip)))
    return false;
  if (config.tile_offset == T(0) &&
      !(s.mean_x + radius_x > T(0) && s.mean_x - radius_x < T(scene.width) && s.mean_y + radius_y > T(0) &&
        s.mean_y - radius_y < T(scene.height)))
    return false;
  const T shift = config.tile_offset;
  const auto low = [&](T mean, T radius, int count) {
    return smaller(larger(floor((mean - shift - radius) / size), T(0)), T(count));
  };
  const auto high = [&](T mean, T radius, int count) {
    // the original rasteriser rounds (x + 15) / 16 down, which for fractions is not x / 16 rounded up
    const T edge = mean - shift + radius;
    const T index = shift != T(0) ? floor((edge + (size - T(1))) / size) : ceil(edge / size);
    return smaller(larger(index, T(0)), T(count));
  };
  const T reach = tau * T(2.001) + T(1e-3);
  const T half_x = sqrt(reach * cov_x), half_y = sqrt(reach * cov_y);
  const T x0 = larger(low(s.mean_x, radius_x, scene.tiles_x), floor((s.mean_x - half_x - half) / size));
  const T y0 = larger(low(s.mean_y, radius_y, scene.tiles_y), floor((s.mean_y - half_y - half) / size));
  const T x1 = smaller(high(s.mean_x, radius_x, scene.tiles_x), floor((s.mean_x + half_x - half) / size) + T(1));
  const T y1 = smaller(high(s.mean_y, radius_y, scene.tiles_y), floor((s.mean_y + half_y - half) / size) + T(1));
  if (!(x0 < x1 && y0 < y1)) return false;
  tiles = {uint16_t(x0), uint16_t(y0), uint16_t(x1), uint16_t(y1)};
  return true;
}

template <class T>
NS_KERNEL bool reaches_tile(const Record<T>& g, int tile_x, int tile_y) {
  return reaches(g, T(tile_x * kTile) + T(0.5), T(tile_y * kTile) + T(0.5), T(kTile - 1), T(kTile - 1));
}

template <class T>
struct ProjectKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  Scene<T> scene;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t r = block.index() * kThreads + block.thread();
    if (r > scene.num_records()) return;
    scene.counts[r] = 0;
    if (r == scene.num_records()) return;
    const int64_t i = r % scene.num_gaussians;
    if (r < scene.num_gaussians) scene.contributes[i] = 0;
    scene.flags[r] = 0;
    const Camera<T>& camera = scene.cameras[r / scene.num_gaussians];
    const Geometry<T> g = load_geometry(scene.params, i);
    const Vec3<T> p = to_camera(camera, g.mean);
    if (!(p.z >= scene.config.near_plane && p.z <= scene.config.far_plane)) return;
    Decisions<bool> decisions;
    decide_ratios(camera, p, decisions);
    Projected<T> projected;
    project_one(scene, camera, g, decisions, projected);
    projected.splat.color = {T(0), T(0), T(0)};
    Record<T> record = make_record(scene.config, projected.splat);
    Tiles tiles;
    if (!tiles_of(scene, projected, record.tau, tiles)) return;
    uint32_t count = 0;
    for (int y = tiles.y0; y < tiles.y1; ++y)
      for (int x = tiles.x0; x < tiles.x1; ++x) count += reaches_tile(record, x, y) ? 1 : 0;
    if (count == 0) return;
    color_one(scene, camera, i, g.mean, true, decisions, projected.splat);
    record.red = projected.splat.color.x, record.green = projected.splat.color.y, record.blue = projected.splat.color.z;
    scene.records[r] = record;
    scene.tiles[r] = tiles;
    scene.flags[r] = uint8_t(flags_of(decisions) | kVisible);
    scene.counts[r] = count;
  }
};

// The records again, for other parameters and the lists of an origin: decisions as there, or taken anew.
template <class T>
struct ReprojectKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  Scene<T> scene;
  const uint8_t* origin_flags;
  bool frozen;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t r = block.index() * kThreads + block.thread();
    if (r >= scene.num_records()) return;
    const int64_t i = r % scene.num_gaussians;
    if (r < scene.num_gaussians && !frozen) scene.contributes[i] = 0;
    scene.flags[r] = origin_flags[r];
    if (!(origin_flags[r] & kVisible)) return;
    const Camera<T>& camera = scene.cameras[r / scene.num_gaussians];
    const Geometry<T> g = load_geometry(scene.params, i);
    Decisions<bool> decisions = decisions_of(origin_flags[r]);
    if (!frozen) decide_ratios(camera, to_camera(camera, g.mean), decisions);
    Projected<T> projected;
    project_one(scene, camera, g, decisions, projected);
    color_one(scene, camera, i, g.mean, !frozen, decisions, projected.splat);
    scene.records[r] = make_record(scene.config, projected.splat);
    scene.flags[r] = uint8_t(flags_of(decisions) | kVisible);
  }
};

// A sum of 32 bits that has run over is smaller behind some record than before it. Then the total says so, whichever
// thread finds it; nothing reads the rest.
struct CheckTotalKernel {
  static constexpr int kThreads = 256, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  uint32_t* record_slots;
  int64_t num_records;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t r = block.index() * kThreads + block.thread();
    if (r < num_records && record_slots[r + 1] < record_slots[r]) record_slots[num_records] = kTooMany;
  }
};

// Keys of all intersections, and behind them as many last ones as there is room for more.
template <class T>
struct EmitKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  Scene<T> scene;
  typename SortKey<T>::type* keys;
  uint32_t* slots;
  uint32_t* slot_records;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t r = block.index() * kThreads + block.thread();
    if (r >= scene.num_intersections() && r < scene.room) {
      keys[r] = SortKey<T>::last();
      slots[r] = 0;
    }
    if (r >= scene.num_records() || !(scene.flags[r] & kVisible)) return;
    const Record<T> record = scene.records[r];
    const Tiles tiles = scene.tiles[r];
    const int64_t first = r / scene.num_gaussians * scene.tiles_per_view();
    uint32_t slot = scene.record_slots[r];
    for (int y = tiles.y0; y < tiles.y1; ++y)
      for (int x = tiles.x0; x < tiles.x1; ++x) {
        if (!reaches_tile(record, x, y)) continue;
        keys[slot] = SortKey<T>::make(uint32_t(first + int64_t(y) * scene.tiles_x + x), record.depth);
        slots[slot] = slot;
        slot_records[slot] = uint32_t(r);
        ++slot;
      }
  }
};

// From sorted keys to the entries and where each tile's begin; one thread an intersection and one more.
template <class T>
struct ListKernel {
  static constexpr int kThreads = 256, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  Scene<T> scene;
  const typename SortKey<T>::type* sorted_keys;
  const uint32_t* sorted_slots;
  const uint32_t* slot_records;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t i = block.index() * kThreads + block.thread(), n = scene.num_intersections();
    if (i > n) return;
    // tiles without a list begin where the next one does
    const int64_t after = i == 0 ? 0 : int64_t(SortKey<T>::tile(sorted_keys[i - 1])) + 1;
    const int64_t own = i == n ? scene.num_tiles() : int64_t(SortKey<T>::tile(sorted_keys[i]));
    for (int64_t tile = after; tile <= own; ++tile) scene.tile_offsets[tile] = uint32_t(i);
    if (i < n) scene.entries[i] = {slot_records[sorted_slots[i]], sorted_slots[i]};
  }
};

// The cells that every entry can reach. A block has the entries of one tile, in turns.
template <class T>
struct MaskKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  Scene<T> scene;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t tile = block.index();
    const int in_view = int(tile % scene.tiles_per_view());
    const int x0 = in_view % scene.tiles_x * kTile, y0 = in_view / scene.tiles_x * kTile;
    for (int64_t i = int64_t(scene.tile_offsets[tile]) + block.thread(); i < scene.tile_offsets[tile + 1]; i += kThreads) {
      const Record<T> record = scene.records[scene.entries[i].record];
      uint32_t mask = 0;
      for (int cell = 0; cell < kCells; ++cell) {
        const int x = x0 + cell % 4 * kCell, y = y0 + cell / 4 * kCell;
        if (x < scene.width && y < scene.height &&
            reaches(record, T(x) + T(0.5), T(y) + T(0.5), T(kCell - 1), T(kCell - 1)))
          mask |= 1u << cell;
      }
      scene.masks[i] = uint16_t(mask);
    }
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
