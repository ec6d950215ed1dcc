// SPDX-License-Identifier: Apache-2.0
// From raw parameters to records: projection, culling and extents of one chunk of Gaussians in one view.
#pragma once
#include "gaussian_io.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
NS_HD Lanes<T> floor_lanes(const Lanes<T>& x) {
  // Values beyond the image are all alike to the callers; the rounding trick needs |x| < 2^22.
  const Lanes<T> limit(T(4194000)), magic(LaneTraits<T>::round_magic);
  const Lanes<T> clamped = max(min(x, limit), -limit);
  const Lanes<T> rounded = (clamped + magic) - magic;
  return rounded - keep(rounded > clamped, Lanes<T>(T(1)));
}
template <class T>
NS_HD Lanes<T> ceil_lanes(const Lanes<T>& x) {
  return -floor_lanes(-x);
}

// ln x for positive normal x
template <class T>
NS_HD Lanes<T> log_lanes(const Lanes<T>& x) {
  alignas(64) T lane[kLanes];
  x.store(lane);
  for (int l = 0; l < kLanes; ++l) lane[l] = std::log(lane[l]);
  return Lanes<T>::load(lane);
}

// Stores sixteen splats as records; `tau` as in plan_view.h.
template <class T>
NS_HD void store_records(const Splat<Lanes<T>>& s, const Lanes<T>& tau, T* records) {
  using L = Lanes<T>;
  const T log2e = T(1.4426950408889634);
  L row[kLanes];
  for (int l = 0; l < kLanes; ++l) row[l] = L(T(0));
  row[kMeanX] = s.mean_x;
  row[kMeanY] = s.mean_y;
  row[kExpA] = s.conic_a * L(T(-0.5) * log2e);
  row[kExpB] = s.conic_b * L(-log2e);
  row[kExpC] = s.conic_c * L(T(-0.5) * log2e);
  row[kOpacity] = s.opacity;
  row[kRed] = s.color.x;
  row[kGreen] = s.color.y;
  row[kBlue] = s.color.z;
  row[kDepth] = s.depth;
  row[kTau] = tau;
  transpose(row);
  for (int l = 0; l < kLanes; ++l) row[l].store(records + l * kRecord);
}

template <class T>
NS_HD void project_rows(const PlanView<T>& plan, const Camera<T>& camera, const Geometry<Lanes<T>>& g,
                        const Decisions<Mask<T>>& decisions, Projected<Lanes<T>>& out) {
  const RasterizationConfig<T>& c = plan.config;
  project(camera, g, decisions, c.eps2d, c.antialiased, c.min_compensation, c.perspective_epsilon, out);
}

template <class T>
NS_HD void color_rows(const PlanView<T>& plan, const Camera<T>& camera, const Rows& rows, const Vec3<Lanes<T>>& mean,
                      Decisions<Mask<T>>& decisions, bool decide, Splat<Lanes<T>>& splat) {
  using L = Lanes<T>;
  Vec3<L> sh[kMaxShBases];
  load_sh(plan.params, rows, plan.num_sh_bases, sh);
  const Vec3<L> c = unclamped_color(plan.num_sh_bases, view_direction(camera, mean, plan.num_sh_bases), sh);
  const L zero(T(0));
  if (decide) {
    decisions.red = c.x > zero;
    decisions.green = c.y > zero;
    decisions.blue = c.z > zero;
  }
  splat.color = {keep(decisions.red, c.x), keep(decisions.green, c.y), keep(decisions.blue, c.z)};
}

// The blocks that sixteen splats are listed in: those of the tiles that the renderer's own (non-differentiable) radius
// reaches, cut to the rectangle around the ellipse alpha >= alpha_min (with a margin for rounding). Returns which
// splats are visible.
template <class T>
NS_HD_LARGE Mask<T> list_blocks(const PlanView<T>& plan, const Projected<Lanes<T>>& projected, Lanes<T>& tau, BlockRect* rects) {
  using L = Lanes<T>;
  const RasterizationConfig<T>& config = plan.config;
  const Splat<L>& s = projected.splat;
  const L zero = L(T(0)), one = L(T(1)), half = L(T(0.5)), four = L(T(4));
  const L cov_x = projected.cov_a, cov_y = projected.cov_c;
  tau = log_lanes(max(s.opacity, L(config.alpha_min)) / L(config.alpha_min));
  L radius_x, radius_y;
  if (config.extent == Extent::opacity_aware) {
    const L sigmas = min(L(T(3.33)), sqrt(tau * L(T(2))));
    radius_x = ceil_lanes(sigmas * sqrt(cov_x));
    radius_y = ceil_lanes(sigmas * sqrt(cov_y));
  } else {
    const L half_trace = (cov_x + cov_y) * half;
    const L det = one / projected.inverse_det;
    const L largest = half_trace + sqrt(max(L(config.eigenvalue_floor), half_trace * half_trace - det));
    radius_x = radius_y = ceil_lanes(L(T(3)) * sqrt(largest));
  }
  Mask<T> visible = (s.opacity >= L(config.alpha_min)) & (projected.inverse_det > zero) &
                    ((radius_x > L(config.radius_clip)) | (radius_y > L(config.radius_clip)));
  if (config.tile_offset == T(0))
    visible = visible & (s.mean_x + radius_x > zero) & (s.mean_x - radius_x < L(T(plan.width))) &
              (s.mean_y + radius_y > zero) & (s.mean_y - radius_y < L(T(plan.height)));
  const L tile = L(T(kTileSize)), shift = L(config.tile_offset);
  const auto low = [&](const L& mean, const L& radius, int tiles) {
    return min(max(floor_lanes((mean - shift - radius) / tile), zero), L(T(tiles))) * four;
  };
  const auto high = [&](const L& mean, const L& radius, int tiles) {
    // the original rasteriser rounds (x + 15) / 16 down, which for fractions is not x / 16 rounded up
    const L edge = mean - shift + radius;
    const L index = config.tile_offset != T(0) ? floor_lanes((edge + (tile - one)) / tile) : ceil_lanes(edge / tile);
    return min(max(index, zero), L(T(tiles))) * four;
  };
  const L reach = tau * L(T(2.001)) + L(T(1e-3));
  const L half_x = sqrt(reach * cov_x), half_y = sqrt(reach * cov_y);
  const L x0 = max(low(s.mean_x, radius_x, plan.tiles_x), floor_lanes((s.mean_x - half_x - half) / four));
  const L y0 = max(low(s.mean_y, radius_y, plan.tiles_y), floor_lanes((s.mean_y - half_y - half) / four));
  const L x1 = min(min(high(s.mean_x, radius_x, plan.tiles_x), floor_lanes((s.mean_x + half_x - half) / four) + one),
                   L(T(plan.blocks_x)));
  const L y1 = min(min(high(s.mean_y, radius_y, plan.tiles_y), floor_lanes((s.mean_y + half_y - half) / four) + one),
                   L(T(plan.blocks_y)));
  visible = visible & (x0 < x1) & (y0 < y1);
  const uint32_t bits = visible.to_bits();
  alignas(64) T rect[4][kLanes];
  x0.store(rect[0]);
  y0.store(rect[1]);
  x1.store(rect[2]);
  y1.store(rect[3]);
  for (int l = 0; l < kLanes; ++l)
    if ((bits >> l) & 1) rects[l] = {int16_t(rect[0][l]), int16_t(rect[1][l]), int16_t(rect[2][l]), int16_t(rect[3][l])};
  return visible;
}

template <class T>
inline int64_t chunk_end(const PlanView<T>& plan, int64_t chunk) {
  return (chunk + 1) * kChunk < plan.num_gaussians ? (chunk + 1) * kChunk : plan.num_gaussians;
}

// Projects the Gaussians of one chunk, culls, and writes the survivors' records and blocks.
template <class T>
void project_chunk(const PlanView<T>& plan, int64_t view, int64_t chunk) {
  using L = Lanes<T>;
  const Camera<T>& camera = plan.cameras[view];
  for (int64_t i = chunk * kChunk; i < chunk_end(plan, chunk); i += kGroup) {
    const int64_t record = view * plan.view_stride + i;
    const Rows rows = rows_from(i, plan.num_gaussians);
    const Vec3<L> p = to_camera(camera, load_vec3(plan.params.means, rows));
    const Mask<T> in_range = (p.z >= L(plan.config.near_plane)) & (p.z <= L(plan.config.far_plane)) &
                             Mask<T>::from_bits((1u << rows.count) - 1u);
    plan.group_visible[record / kGroup] = 0;
    if (!any(in_range)) continue;
    const Geometry<L> g = load_geometry(plan.params, rows);
    Decisions<Mask<T>> decisions;
    decide_ratios(camera, p, decisions);
    Projected<L> projected;
    project_rows(plan, camera, g, decisions, projected);
    L tau;
    const uint32_t visible = (in_range & list_blocks(plan, projected, tau, plan.record_blocks + record)).to_bits();
    if (!visible) continue;
    color_rows(plan, camera, rows, g.mean, decisions, true, projected.splat);
    plan.group_visible[record / kGroup] = uint16_t(visible);
    store_decisions(decisions, plan.group_decisions[record / kGroup]);
    store_records(projected.splat, tau, plan.records + record * kRecord);
    std::memset(plan.record_contributes + record, 0, kGroup);
  }
}

// The records of a chunk again, for the plan's parameters: decisions as they are in the plan, or taken anew.
template <class T>
void reproject_chunk(const PlanView<T>& plan, bool frozen, int64_t view, int64_t chunk) {
  using L = Lanes<T>;
  const Camera<T>& camera = plan.cameras[view];
  for (int64_t i = chunk * kChunk; i < chunk_end(plan, chunk); i += kGroup) {
    const int64_t record = view * plan.view_stride + i;
    prefetch_rows(plan.params, i + kRowsAhead, plan.num_gaussians, plan.num_sh_bases);
    if (!plan.group_visible[record / kGroup]) continue;
    const Rows rows = rows_from(i, plan.num_gaussians);
    const Geometry<L> g = load_geometry(plan.params, rows);
    Decisions<Mask<T>> decisions = load_decisions<T>(plan.group_decisions[record / kGroup]);
    if (!frozen) decide_ratios(camera, to_camera(camera, g.mean), decisions);
    Projected<L> projected;
    project_rows(plan, camera, g, decisions, projected);
    color_rows(plan, camera, rows, g.mean, decisions, !frozen, projected.splat);
    store_records(projected.splat, L(T(0)), plan.records + record * kRecord);
    if (!frozen) store_decisions(decisions, plan.group_decisions[record / kGroup]);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
