// SPDX-License-Identifier: Apache-2.0
// diag(JᵀWJ) and its per-Gaussian diagonal blocks: Σ_views Gᵀ B G with B the 9x9 moment matrix of RᵀWR over
// (q0..q5, rgb) (raster_kernels.h, moments_tile) and G the Jacobian of those nine numbers in the Gaussian's parameters.
#pragma once
#include "chain_kernels.h"
#include "kernels.h"

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

// Column p of G: tangents of (q0..q5, rgb) for a unit tangent of geometry parameter p.
template <class T>
NS_HD void geometry_column(const PlanView<T>& plan, const Camera<T>& camera, const Geometry<Lanes<T>>& g,
                           const Vec3<Lanes<T>>* sh, const Decisions<Mask<T>>& decisions, int parameter, Lanes<T> (&column)[9]) {
  using L = Lanes<T>;
  using D = Dual<L>;
  const RasterizationConfig<T>& c = plan.config;
  const auto unit = [&](int p) { return L(p == parameter ? T(1) : T(0)); };
  const Geometry<L> tangent{{unit(0), unit(1), unit(2)},
                            {unit(3), unit(4), unit(5), unit(6)},
                            {unit(7), unit(8), unit(9)},
                            unit(10)};
  const Geometry<D> dual = dual_geometry(g, tangent);
  Projected<D> projected;
  project(camera, dual, decisions, c.eps2d, c.antialiased, c.min_compensation, c.perspective_epsilon, projected);
  const Splat<D>& s = projected.splat;
  column[0] = s.opacity.d / s.opacity.v;
  column[1] = -(s.conic_a.v * s.mean_x.d + s.conic_b.v * s.mean_y.d);
  column[2] = -(s.conic_b.v * s.mean_x.d + s.conic_c.v * s.mean_y.d);
  column[3] = s.conic_a.d * L(T(-0.5));
  column[4] = -s.conic_b.d;
  column[5] = s.conic_c.d * L(T(-0.5));
  column[6] = column[7] = column[8] = L(T(0));
  if (parameter < 3 && plan.num_sh_bases > 1) {
    const Vec3<D> color = unclamped_color(plan.num_sh_bases, view_direction(camera, dual.mean, plan.num_sh_bases), [&](int k) {
      return Vec3<D>{D(sh[k].x), D(sh[k].y), D(sh[k].z)};
    });
    column[6] = keep(decisions.red, color.x.d);
    column[7] = keep(decisions.green, color.y.d);
    column[8] = keep(decisions.blue, color.z.d);
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
      L gathered[3][kLanes];
      gather_slots<T, 3>(plan, record, moment_slots, gathered);
      const auto moment = [&](int a, int b) {
        const int index = a <= b ? moment_index(a, b) : moment_index(b, a);
        return gathered[index / kLanes][index % kLanes];
      };
      L jacobian[P][9], diagonal[P];
      for (int p = 0; p < P; ++p) {
        geometry_column(plan, camera, g, sh, decisions, p, jacobian[p]);
        for (int a = 0; a < 9; ++a) jacobian[p][a] = keep(visible, jacobian[p][a]);
      }
      for (int p = 0; p < P; ++p) {
        // B times column p; rows of different colours do not mix
        L product[9];
        const int used = p < 3 ? 9 : 6;
        for (int a = 0; a < 9; ++a) {
          L sum(T(0));
          for (int b = 0; b < used; ++b)
            if (a < 6 || b < 6 || a == b) sum += moment(a, b) * jacobian[p][b];
          product[a] = sum;
        }
        for (int q = out.geometry ? 0 : p; q <= p; ++q) {
          L value(T(0));
          for (int a = 0; a < (q < 3 ? 9 : 6); ++a) value += jacobian[q][a] * product[a];
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
