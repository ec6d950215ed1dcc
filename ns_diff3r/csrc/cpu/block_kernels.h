// SPDX-License-Identifier: Apache-2.0
// diag(JᵀWJ) and its per-Gaussian diagonal blocks: Σ_views Gᵀ B G with B the 9x9 moment matrix of RᵀWR over
// (q0..q5, rgb) (moment_kernels.h) and G the Jacobian of those nine numbers in the Gaussian's parameters.
#pragma once
#include "chain_kernels.h"
#include "kernels.h"
#include "lane_sums.h"

namespace ns_diff3r {
namespace NS_ISA {

constexpr int kGeometryParameters = 11;  // means 3, quats 4, scales 3, opacity 1

// Where entry (i, j), i <= j, of B lies among a moment slot's 48 numbers (moments_tile); 0 where B is zero (two
// different colours; never asked for).
constexpr int moment_index(int i, int j) {
  constexpr int monomial[6][6] = {{0, 1, 2, 3, 4, 5},   {1, 3, 4, 6, 7, 8},     {2, 4, 5, 7, 8, 9},
                                  {3, 6, 7, 10, 11, 12}, {4, 7, 8, 11, 12, 13}, {5, 8, 9, 12, 13, 14}};
  if (j < 6) return sum_lane(monomial[i][j], 15);
  if (i < 6) return j == 6 ? 16 + sum_lane(i, 15) : (j == 7 ? 16 + sum_lane(6 + i, 15) : 32 + sum_lane(i, 6));
  return i == j ? 16 + sum_lane(12 + (i - 6), 15) : 0;
}

struct MomentTable {
  int index[9][9];
};
constexpr MomentTable make_moment_table() {
  MomentTable table{};
  for (int i = 0; i < 9; ++i)
    for (int j = 0; j < 9; ++j) table.index[i][j] = i <= j ? moment_index(i, j) : moment_index(j, i);
  return table;
}
constexpr MomentTable kMoments = make_moment_table();

// G by rows: row a holds the derivatives of number a of (q0..q5, rgb) by the eleven geometry parameters.
template <class T>
NS_HD_LARGE void geometry_jacobian(const PlanView<T>& plan, const Camera<T>& camera, const Geometry<Lanes<T>>& g,
                             const Vec3<Lanes<T>>* sh, const Decisions<Mask<T>>& decisions, const Mask<T>& visible,
                             Lanes<T> (&jacobian)[9][kGeometryParameters]) {
  using L = Lanes<T>;
  const L zero(T(0)), half(T(-0.5));
  Projected<L> projected;
  project_rows(plan, camera, g, decisions, projected);
  const Splat<L>& s = projected.splat;
  for (int a = 0; a < 6; ++a) {
    Splat<L> v{zero, zero, zero, zero, zero, zero, {zero, zero, zero}, zero};
    if (a == 0) v.opacity = L(T(1));
    if (a == 1) {
      v.mean_x = -s.conic_a;
      v.mean_y = -s.conic_b;
    }
    if (a == 2) {
      v.mean_x = -s.conic_b;
      v.mean_y = -s.conic_c;
    }
    if (a == 3) v.conic_a = half;
    if (a == 4) v.conic_b = L(T(-1));
    if (a == 5) v.conic_c = half;
    CameraCotangent<L> unused;
    const Geometry<L> row = keep(visible, project_vjp(camera, projected, decisions, plan.config.antialiased, v, unused));
    const L parameters[kGeometryParameters] = {row.mean.x, row.mean.y,  row.mean.z,  row.quat.w,  row.quat.x, row.quat.y,
                                               row.quat.z, row.scale.x, row.scale.y, row.scale.z, row.opacity};
    for (int p = 0; p < kGeometryParameters; ++p) jacobian[a][p] = parameters[p];
  }
  const ViewDirection<L> direction = view_direction(camera, g.mean, plan.num_sh_bases);
  const Mask<T> active[3] = {decisions.red & visible, decisions.green & visible, decisions.blue & visible};
  for (int channel = 0; channel < 3; ++channel) {
    for (int p = 0; p < kGeometryParameters; ++p) jacobian[6 + channel][p] = zero;
    if (plan.num_sh_bases == 1) continue;
    const L one = keep(active[channel], L(T(1)));
    const Vec3<L> unit{channel == 0 ? one : zero, channel == 1 ? one : zero, channel == 2 ? one : zero};
    const Vec3<L> v_mean = color_vjp(plan.num_sh_bases, direction, sh, unit, static_cast<Vec3<L>*>(nullptr));
    const Vec3<L> kept = keep(active[channel], v_mean);
    jacobian[6 + channel][0] = kept.x;
    jacobian[6 + channel][1] = kept.y;
    jacobian[6 + channel][2] = kept.z;
  }
}

// Adds a lane value to element (row, column) of each Gaussian's block in an array [N, size].
template <class T>
NS_HD void add_element(T* p, const Rows& rows, int64_t size, int64_t element, const Lanes<T>& x) {
  alignas(64) T lane[kLanes];
  x.store(lane);
  for (int l = 0; l < rows.count; ++l) p[(rows.first + l) * size + element] += lane[l];
}

template <class T>
void blocks_chunk(const PlanView<T>& plan, const T* moment_slots, int64_t chunk, const BlockPointers<T>& out) {
  using L = Lanes<T>;
  constexpr int P = kGeometryParameters;
  const int K = plan.num_sh_bases;
  const int64_t first = chunk * kChunk, count = chunk_end(plan, chunk) - first;
  if (out.geometry) std::memset(static_cast<void*>(out.geometry + first * P * P), 0, size_t(count) * P * P * sizeof(T));
  if (out.sh) std::memset(static_cast<void*>(out.sh + first * 3 * K * K), 0, size_t(count) * 3 * K * K * sizeof(T));
  const L zero(T(0));
  for (int64_t i = first; i < first + count; i += kGroup) {
    const Rows rows = rows_from(i, plan.num_gaussians);
    Geometry<L> total = zero_geometry<T>();
    Vec3<L> total_sh[kMaxShBases], sh[kMaxShBases];
    for (int k = 0; k < K; ++k) total_sh[k] = {zero, zero, zero};
    const Geometry<L> g = load_geometry(plan.params, rows);
    load_sh(plan.params, rows, K, sh);
    for (int64_t view = 0; view < plan.num_views; ++view) {
      const int64_t record = view * plan.view_stride + i;
      if (!plan.group_visible[record / kGroup]) continue;
      const Mask<T> visible = Mask<T>::from_bits(plan.group_visible[record / kGroup]);
      const Camera<T>& camera = plan.cameras[view];
      const Decisions<Mask<T>> decisions = load_decisions<T>(plan.group_decisions[record / kGroup]);
      prefetch_ahead<T, 3>(plan, view, i, kSlotsAhead, moment_slots);
      L gathered[3][kLanes];
      gather_slots<T, 3>(plan, record, moment_slots, gathered);
      const L* const moments = gathered[0];  // all 48 numbers
      const auto moment = [&](int a, int b) { return moments[kMoments.index[a][b]]; };
      L jacobian[9][P], diagonal[P];
      geometry_jacobian(plan, camera, g, sh, decisions, visible, jacobian);
      for (int p = 0; p < P; ++p) {
        // B times column p; rows of different colours do not mix
        L product[9];
        const int used = p < 3 ? 9 : 6;
        for (int a = 0; a < 9; ++a) {
          L sum(T(0));
          for (int b = 0; b < used; ++b)
            if (a < 6 || b < 6 || a == b) sum += moment(a, b) * jacobian[b][p];
          product[a] = sum;
        }
        for (int q = out.geometry ? 0 : p; q <= p; ++q) {
          L value(T(0));
          for (int a = 0; a < (q < 3 ? 9 : 6); ++a) value += jacobian[a][q] * product[a];
          if (q == p) diagonal[p] = value;
          if (!out.geometry) continue;
          add_element(out.geometry, rows, P * P, q * P + p, value);
          if (q != p) add_element(out.geometry, rows, P * P, p * P + q, value);
        }
      }
      accumulate(total, Geometry<L>{{diagonal[0], diagonal[1], diagonal[2]},
                                    {diagonal[3], diagonal[4], diagonal[5], diagonal[6]},
                                    {diagonal[7], diagonal[8], diagonal[9]},
                                    diagonal[10]});
      const Vec3<L> cc{keep(decisions.red & visible, moment(6, 6)), keep(decisions.green & visible, moment(7, 7)),
                       keep(decisions.blue & visible, moment(8, 8))};
      L basis[kMaxShBases];
      for_each_sh_basis(K, view_direction(camera, g.mean, plan.num_sh_bases).unit,
                        [&](int k, const L& y, const L&, const L&, const L&) { basis[k] = y; });
      for (int k = 0; k < K; ++k) {
        total_sh[k] = total_sh[k] + keep(visible, scaled(cc, basis[k] * basis[k]));
        if (!out.sh) continue;
        for (int m = 0; m < K; ++m) {
          const Vec3<L> value = keep(visible, scaled(cc, basis[k] * basis[m]));
          add_element(out.sh, rows, 3 * K * K, int64_t(k) * K + m, value.x);
          add_element(out.sh, rows, 3 * K * K, int64_t(K + k) * K + m, value.y);
          add_element(out.sh, rows, 3 * K * K, int64_t(2 * K + k) * K + m, value.z);
        }
      }
    }
    store_geometry(out.diagonal, rows, total);
    store_sh(out.diagonal, rows, K, total_sh);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
