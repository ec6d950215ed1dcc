// SPDX-License-Identifier: Apache-2.0
// The per-Gaussian half of every product: tangents of raw parameters to tangents of the ten screen numbers, and slots
// back to cotangents of raw parameters. One chunk of Gaussians, all its views, so that no two work items share a row.
#pragma once
#include "project_kernels.h"

namespace ns_diff3r {
namespace NS_ISA {

// ---- forward -------------------------------------------------------------------------------------------------------

template <class T>
NS_HD Geometry<Dual<Lanes<T>>> dual_geometry(const Geometry<Lanes<T>>& g, const Geometry<Lanes<T>>& d) {
  using D = Dual<Lanes<T>>;
  return {{D(g.mean.x, d.mean.x), D(g.mean.y, d.mean.y), D(g.mean.z, d.mean.z)},
          {D(g.quat.w, d.quat.w), D(g.quat.x, d.quat.x), D(g.quat.y, d.quat.y), D(g.quat.z, d.quat.z)},
          {D(g.scale.x, d.scale.x), D(g.scale.y, d.scale.y), D(g.scale.z, d.scale.z)},
          D(g.opacity, d.opacity)};
}

template <class T>
NS_HD Vec3<Dual<Lanes<T>>> dual_vec3(const Vec3<Lanes<T>>& v, const Vec3<Lanes<T>>& d) {
  using D = Dual<Lanes<T>>;
  return {D(v.x, d.x), D(v.y, d.y), D(v.z, d.z)};
}

template <class T>
NS_HD Vec3<Dual<Lanes<T>>> color_dual(const PlanView<T>& plan, const Camera<T>& camera,
                                      const Vec3<Dual<Lanes<T>>>& mean, const Vec3<Dual<Lanes<T>>>* sh,
                                      const Decisions<Mask<T>>& decisions) {
  const int K = plan.num_sh_bases;
  return clamp_color_vjp<Dual<Lanes<T>>>(decisions, unclamped_color(K, view_direction(camera, mean, K), sh));
}

template <class T>
NS_HD void load_dual_sh(const PlanView<T>& plan, const GaussianPointers<T>& tangents, const Rows& rows,
                        Vec3<Dual<Lanes<T>>>* sh) {
  Vec3<Lanes<T>> value[kMaxShBases], tangent[kMaxShBases];
  load_sh(plan.params, rows, plan.num_sh_bases, value);
  load_sh(tangents, rows, plan.num_sh_bases, tangent);
  for (int k = 0; k < plan.num_sh_bases; ++k) sh[k] = dual_vec3(value[k], tangent[k]);
}

template <class T>
inline uint32_t visible_in_any(const PlanView<T>& plan, int64_t first) {
  uint32_t visible = 0;
  for (int64_t view = 0; view < plan.num_views; ++view)
    visible |= plan.group_visible[(view * plan.view_stride + first) / kGroup];
  return visible;
}

// Tangent records: the polynomial of d(alpha)/alpha, d(colour) and d(depth).
template <class T>
void jvp_chunk(const PlanView<T>& plan, const GaussianPointers<T>& tangents, int64_t chunk, T* out) {
  using L = Lanes<T>;
  using D = Dual<L>;
  for (int64_t i = chunk * kChunk; i < chunk_end(plan, chunk); i += kGroup) {
    prefetch_rows(plan.params, i + kRowsAhead, plan.num_gaussians, plan.num_sh_bases);
    prefetch_rows(tangents, i + kRowsAhead, plan.num_gaussians, plan.num_sh_bases);
    if (!visible_in_any(plan, i)) continue;
    const Rows rows = rows_from(i, plan.num_gaussians);
    const Geometry<L> value = load_geometry(plan.params, rows), tangent = load_geometry(tangents, rows);
    Vec3<D> sh[kMaxShBases];
    load_dual_sh(plan, tangents, rows, sh);
    for (int64_t view = 0; view < plan.num_views; ++view) {
      const int64_t record = view * plan.view_stride + i;
      if (!plan.group_visible[record / kGroup]) continue;
      const Camera<T>& camera = plan.cameras[view];
      const Decisions<Mask<T>> decisions = load_decisions<T>(plan.group_decisions[record / kGroup]);
      Projected<L> projected;
      project_rows(plan, camera, value, decisions, projected);
      const Splat<L>& s = projected.splat;
      const Splat<L> d = project_jvp(camera, projected, decisions, plan.config.antialiased, tangent);
      const Vec3<D> color = color_dual(plan, camera, dual_vec3(value.mean, tangent.mean), sh, decisions);
      L row[kLanes];
      for (int l = 0; l < kLanes; ++l) row[l] = L(T(0));
      row[0] = d.opacity;
      row[1] = -(s.conic_a * d.mean_x + s.conic_b * d.mean_y);
      row[2] = -(s.conic_b * d.mean_x + s.conic_c * d.mean_y);
      row[3] = d.conic_a * L(T(-0.5));
      row[4] = -d.conic_b;
      row[5] = d.conic_c * L(T(-0.5));
      row[6] = color.x.d;
      row[7] = color.y.d;
      row[8] = color.z.d;
      row[9] = d.depth;
      transpose(row);
      for (int l = 0; l < kLanes; ++l) row[l].store(out + (record + l) * kRecord);
    }
  }
}

// ---- backward ------------------------------------------------------------------------------------------------------

// Asks for the slots of a group that will be gathered soon: they lie scattered, and waiting for each costs more than the
// arithmetic of the whole chain.
template <class T, int Parts>
NS_HD void prefetch_slots(const PlanView<T>& plan, int64_t record, const T* slots) {
  for (int64_t s = plan.record_slot_offsets[record]; s < plan.record_slot_offsets[record + kGroup]; ++s) {
    const T* slot = slots + int64_t(plan.record_slots[s]) * (Parts * kLanes);
    for (int p = 0; p < Parts; ++p) __builtin_prefetch(slot + p * kLanes);
  }
}
// The same for the group `ahead` Gaussians after `first`, if there is one.
template <class T, int Parts>
NS_HD void prefetch_ahead(const PlanView<T>& plan, int64_t view, int64_t first, int64_t ahead, const T* slots) {
  if (first + ahead < plan.num_gaussians) prefetch_slots<T, Parts>(plan, view * plan.view_stride + first + ahead, slots);
}
constexpr int64_t kSlotsAhead = 4 * kGroup;

// Sums the slots of a group's records: out[p][f] is number 16 p + f of every record, 0 for those without slots.
template <class T, int Parts>
NS_HD void gather_slots(const PlanView<T>& plan, int64_t record, const T* slots, Lanes<T> (&out)[Parts][kLanes]) {
  using L = Lanes<T>;
  int64_t s = plan.record_slot_offsets[record];
  for (int l = 0; l < kLanes; ++l) {
    for (int p = 0; p < Parts; ++p) out[p][l] = L(T(0));
    for (const int64_t end = plan.record_slot_offsets[record + l + 1]; s < end; ++s) {
      const T* slot = slots + int64_t(plan.record_slots[s]) * (Parts * kLanes);
      for (int p = 0; p < Parts; ++p) out[p][l] += L::load(slot + p * kLanes);
    }
  }
  for (int p = 0; p < Parts; ++p) transpose(out[p]);
}

// Cotangents of the screen numbers from the ten numbers of a slot; sum(i) gives number i.
template <class V, class Sum>
NS_HD Splat<V> splat_cotangents(const Splat<V>& s, Sum&& sum) {
  using S = scalar_t<V>;
  Splat<V> v;
  v.opacity = sum(0);  // of ln(opacity)
  v.mean_x = -(s.conic_a * sum(1) + s.conic_b * sum(2));
  v.mean_y = -(s.conic_b * sum(1) + s.conic_c * sum(2));
  v.conic_a = sum(3) * S(-0.5);
  v.conic_b = -sum(4);
  v.conic_c = sum(5) * S(-0.5);
  v.color = {sum(6), sum(7), sum(8)};
  v.depth = sum(9);  // meaningful after a sweep with depth only
  return v;
}

// Per work item and view: cotangents of R by rows (9), t (3), camera centre (3), and the twist's rotation (3).
constexpr int kCameraSums = 18;

template <class T>
NS_HD void add_camera_sums(const Camera<T>& camera, const Projected<Lanes<T>>& f, const Vec3<Lanes<T>>& mean,
                           const CameraCotangent<Lanes<T>>& v, const Vec3<Lanes<T>>& v_mean_sh, const Mask<T>& visible,
                           double* sums) {
  using L = Lanes<T>;
  const T* r = camera.rotation;
  Vec3<L> twist = cross(f.p, v.p);
  const Vec3<L> v_rows[3] = {v.row0, v.row1, v.row2};
  // Σ_j (column j of R) x (column j of its cotangent)
  for (int j = 0; j < 3; ++j) {
    const auto component = [j](const Vec3<L>& a) { return j == 0 ? a.x : (j == 1 ? a.y : a.z); };
    const Vec3<T> column{r[j], r[3 + j], r[6 + j]};
    const Vec3<L> v_column{component(v.row0), component(v.row1), component(v.row2)};
    const Vec3<L> c{v_column.z * column.y - v_column.y * column.z, v_column.x * column.z - v_column.z * column.x,
                    v_column.y * column.x - v_column.x * column.y};
    twist = twist + c;
  }
  const L vp[3] = {v.p.x, v.p.y, v.p.z};
  L column[kCameraSums];
  for (int i = 0; i < 3; ++i) {
    column[3 * i] = vp[i] * mean.x + v_rows[i].x;
    column[3 * i + 1] = vp[i] * mean.y + v_rows[i].y;
    column[3 * i + 2] = vp[i] * mean.z + v_rows[i].z;
    column[9 + i] = vp[i];
  }
  column[12] = -v_mean_sh.x;
  column[13] = -v_mean_sh.y;
  column[14] = -v_mean_sh.z;
  column[15] = twist.x;
  column[16] = twist.y;
  column[17] = twist.z;
  for (int k = 0; k < kCameraSums; ++k) {
    alignas(64) T lane[kLanes];
    keep(visible, column[k]).store(lane);
    for (int l = 0; l < kLanes; ++l) sums[k] += double(lane[l]);
  }
}

// Slots -> cotangents of the raw parameters, added over views in view order; camera_sums [V][chunks][18] may be null.
template <class T>
void vjp_chunk(const PlanView<T>& plan, const T* slots, bool depth, int64_t chunk, const GaussianOutputs<T>& out,
               double* camera_sums) {
  using L = Lanes<T>;
  const RasterizationConfig<T>& config = plan.config;
  const int K = plan.num_sh_bases;
  const L zero(T(0));
  if (camera_sums)
    for (int64_t view = 0; view < plan.num_views; ++view)
      for (int k = 0; k < kCameraSums; ++k) camera_sums[(view * plan.num_chunks + chunk) * kCameraSums + k] = 0.0;
  for (int64_t i = chunk * kChunk; i < chunk_end(plan, chunk); i += kGroup) {
    prefetch_rows(plan.params, i + kRowsAhead, plan.num_gaussians, plan.num_sh_bases);
    const Rows rows = rows_from(i, plan.num_gaussians);
    Geometry<L> total = zero_geometry<T>();
    Vec3<L> total_sh[kMaxShBases];
    for (int k = 0; k < K; ++k) total_sh[k] = {zero, zero, zero};
    if (visible_in_any(plan, i)) {
      const Geometry<L> g = load_geometry(plan.params, rows);
      Vec3<L> sh[kMaxShBases], v_sh[kMaxShBases];
      load_sh(plan.params, rows, K, sh);
      for (int64_t view = 0; view < plan.num_views; ++view) {
        const int64_t record = view * plan.view_stride + i;
        if (!plan.group_visible[record / kGroup]) continue;
        prefetch_ahead<T, 1>(plan, view, i, kSlotsAhead, slots);
        const Mask<T> visible = Mask<T>::from_bits(plan.group_visible[record / kGroup]);
        const Camera<T>& camera = plan.cameras[view];
        const Decisions<Mask<T>> decisions = load_decisions<T>(plan.group_decisions[record / kGroup]);
        L sums[1][kLanes];
        gather_slots<T, 1>(plan, record, slots, sums);
        Projected<L> projected;
        project_rows(plan, camera, g, decisions, projected);
        Splat<L> v = splat_cotangents(projected.splat, [&](int i) { return sums[0][i]; });
        if (!depth) v.depth = zero;
        CameraCotangent<L> v_camera;
        Geometry<L> v_geometry = project_vjp(camera, projected, decisions, config.antialiased, v, v_camera);
        const Vec3<L> v_mean_sh = color_vjp(K, view_direction(camera, g.mean, K), sh,
                                            clamp_color_vjp<L>(decisions, v.color), v_sh);
        for (int k = 0; k < K; ++k) total_sh[k] = total_sh[k] + keep(visible, v_sh[k]);
        if (camera_sums)
          add_camera_sums(camera, projected, g.mean, v_camera, v_mean_sh, visible,
                          camera_sums + (view * plan.num_chunks + chunk) * kCameraSums);
        v_geometry.mean = v_geometry.mean + v_mean_sh;
        accumulate(total, keep(visible, v_geometry));
      }
    }
    store_geometry(out, rows, total);
    store_sh(out, rows, K, total_sh);
  }
}

template <class T>
NS_HD Vec3<Lanes<T>> tangent_of(const Vec3<Dual<Lanes<T>>>& v) {
  return {v.x.d, v.y.d, v.z.d};
}

// Completes the tangents of the moments of s by what the mean's own motion does to dx and dy.
template <class T>
NS_HD void move_moments(const Dual<Lanes<T>>& mean_x, const Dual<Lanes<T>>& mean_y, Dual<Lanes<T>> (&m)[6]) {
  const Lanes<T>&x = mean_x.d, &y = mean_y.d, two(T(2));
  m[3].d += two * x * m[1].v;
  m[4].d += x * m[2].v + y * m[1].v;
  m[5].d += two * y * m[2].v;
  m[1].d += x * m[0].v;
  m[2].d += y * m[0].v;
}

// The tangent part of vjp_chunk on dual numbers: slots hold sixteen values, then their tangents.
template <class T>
void vjp_tangent_chunk(const PlanView<T>& plan, const GaussianPointers<T>& tangents, const T* slots, int64_t chunk,
                       const GaussianOutputs<T>& out) {
  using L = Lanes<T>;
  using D = Dual<L>;
  const RasterizationConfig<T>& config = plan.config;
  const int K = plan.num_sh_bases;
  const L zero(T(0));
  for (int64_t i = chunk * kChunk; i < chunk_end(plan, chunk); i += kGroup) {
    prefetch_rows(plan.params, i + kRowsAhead, plan.num_gaussians, plan.num_sh_bases);
    const Rows rows = rows_from(i, plan.num_gaussians);
    Geometry<L> total = zero_geometry<T>();
    Vec3<L> total_sh[kMaxShBases];
    for (int k = 0; k < K; ++k) total_sh[k] = {zero, zero, zero};
    if (visible_in_any(plan, i)) {
      const Geometry<D> geometry = dual_geometry(load_geometry(plan.params, rows), load_geometry(tangents, rows));
      Vec3<D> sh[kMaxShBases], v_sh[kMaxShBases];
      load_dual_sh(plan, tangents, rows, sh);
      for (int64_t view = 0; view < plan.num_views; ++view) {
        const int64_t record = view * plan.view_stride + i;
        if (!plan.group_visible[record / kGroup]) continue;
        prefetch_ahead<T, 2>(plan, view, i, kSlotsAhead, slots);
        const Mask<T> visible = Mask<T>::from_bits(plan.group_visible[record / kGroup]);
        const Camera<T>& camera = plan.cameras[view];
        const Decisions<Mask<T>> decisions = load_decisions<T>(plan.group_decisions[record / kGroup]);
        L gathered[2][kLanes];
        gather_slots<T, 2>(plan, record, slots, gathered);
        Projected<D> projected;
        project(camera, geometry, decisions, config.eps2d, config.antialiased, config.min_compensation,
                config.perspective_epsilon, projected);
        const auto sum = [&](int i) { return D(gathered[0][i], gathered[1][i]); };
        D moments[6] = {sum(0), sum(1), sum(2), sum(3), sum(4), sum(5)};
        move_moments(projected.splat.mean_x, projected.splat.mean_y, moments);
        Splat<D> v = splat_cotangents(projected.splat, [&](int i) { return i < 6 ? moments[i] : sum(i); });
        v.depth = D(zero);
        CameraCotangent<D> v_camera;
        const Geometry<D> v_geometry = project_vjp(camera, projected, decisions, config.antialiased, v, v_camera);
        const Vec3<D> v_mean_sh = color_vjp(K, view_direction(camera, geometry.mean, K), sh,
                                            clamp_color_vjp<D>(decisions, v.color), v_sh);
        for (int k = 0; k < K; ++k) total_sh[k] = total_sh[k] + keep(visible, tangent_of<T>(v_sh[k]));
        accumulate(total, keep(visible, Geometry<L>{tangent_of<T>(v_geometry.mean + v_mean_sh),
                                                    {v_geometry.quat.w.d, v_geometry.quat.x.d, v_geometry.quat.y.d,
                                                     v_geometry.quat.z.d},
                                                    tangent_of<T>(v_geometry.scale),
                                                    v_geometry.opacity.d}));
      }
    }
    store_geometry(out, rows, total);
    store_sh(out, rows, K, total_sh);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
