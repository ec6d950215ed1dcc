// SPDX-License-Identifier: Apache-2.0
// One Gaussian between the parameter arrays and registers; colours read coefficient by coefficient, since up to 25 of
// three channels would not fit into registers.
#pragma once
#include "../math/dual.h"
#include "../math/projection.h"
#include "scene.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
NS_KERNEL Geometry<T> load_geometry(const GaussianPointers<T>& p, int64_t i) {
  return {{p.means[3 * i], p.means[3 * i + 1], p.means[3 * i + 2]},
          {p.quats[4 * i], p.quats[4 * i + 1], p.quats[4 * i + 2], p.quats[4 * i + 3]},
          {p.scales[3 * i], p.scales[3 * i + 1], p.scales[3 * i + 2]},
          p.opacities[i]};
}
template <class T>
NS_KERNEL void store_geometry(const GaussianOutputs<T>& out, int64_t i, const Geometry<T>& g) {
  out.means[3 * i] = g.mean.x, out.means[3 * i + 1] = g.mean.y, out.means[3 * i + 2] = g.mean.z;
  out.quats[4 * i] = g.quat.w, out.quats[4 * i + 1] = g.quat.x;
  out.quats[4 * i + 2] = g.quat.y, out.quats[4 * i + 3] = g.quat.z;
  out.scales[3 * i] = g.scale.x, out.scales[3 * i + 1] = g.scale.y, out.scales[3 * i + 2] = g.scale.z;
  out.opacities[i] = g.opacity;
}
template <class T>
NS_KERNEL void accumulate(Geometry<T>& a, const Geometry<T>& b) {
  a.mean = a.mean + b.mean;
  a.quat = {a.quat.w + b.quat.w, a.quat.x + b.quat.x, a.quat.y + b.quat.y, a.quat.z + b.quat.z};
  a.scale = a.scale + b.scale;
  a.opacity = a.opacity + b.opacity;
}
template <class T>
NS_KERNEL Geometry<T> zero_geometry() {
  return {{T(0), T(0), T(0)}, {T(0), T(0), T(0), T(0)}, {T(0), T(0), T(0)}, T(0)};
}
template <class T>
NS_KERNEL Geometry<Dual<T>> dual_geometry(const Geometry<T>& g, const Geometry<T>& d) {
  using D = Dual<T>;
  return {{D(g.mean.x, d.mean.x), D(g.mean.y, d.mean.y), D(g.mean.z, d.mean.z)},
          {D(g.quat.w, d.quat.w), D(g.quat.x, d.quat.x), D(g.quat.y, d.quat.y), D(g.quat.z, d.quat.z)},
          {D(g.scale.x, d.scale.x), D(g.scale.y, d.scale.y), D(g.scale.z, d.scale.z)},
          D(g.opacity, d.opacity)};
}

template <class T>
NS_KERNEL T* sh_address(T* sh0, T* shN, int num_bases, int64_t i, int k) {
  return k == 0 ? sh0 + 3 * i : shN + (i * (num_bases - 1) + k - 1) * 3;
}
template <class T>
NS_KERNEL Vec3<T> load_sh(const GaussianPointers<T>& p, int num_bases, int64_t i, int k) {
  const T* c = sh_address(p.sh0, p.shN, num_bases, i, k);
  return {c[0], c[1], c[2]};
}
template <class T>
NS_KERNEL void store_sh(const GaussianOutputs<T>& out, int num_bases, int64_t i, int k, const Vec3<T>& v) {
  T* c = sh_address(out.sh0, out.shN, num_bases, i, k);
  c[0] = v.x, c[1] = v.y, c[2] = v.z;
}
// Every thread owns its Gaussian's row: no atomics.
template <class T>
NS_KERNEL void add_sh(const GaussianOutputs<T>& out, int num_bases, int64_t i, int k, const Vec3<T>& v) {
  T* c = sh_address(out.sh0, out.shN, num_bases, i, k);
  c[0] += v.x, c[1] += v.y, c[2] += v.z;
}
// Adds up the colour coefficients of one Gaussian over its views: the constant one, often the only one, in registers, the
// others in the output itself.
template <class T>
struct ShSum {
  const GaussianOutputs<T>& out;
  int num_bases;
  int64_t i;
  Vec3<T> constant;

  NS_KERNEL ShSum(const GaussianOutputs<T>& out_, int num_bases_, int64_t i_)
      : out(out_), num_bases(num_bases_), i(i_), constant{T(0), T(0), T(0)} {}
  NS_KERNEL void clear() const {
    for (int k = 1; k < num_bases; ++k) store_sh(out, num_bases, i, k, {T(0), T(0), T(0)});
  }
  NS_KERNEL void add(int k, const Vec3<T>& v) {
    if (k == 0)
      constant = constant + v;
    else
      add_sh(out, num_bases, i, k, v);
  }
  NS_KERNEL void store() const { store_sh(out, num_bases, i, 0, constant); }
};

// Σ_k Y_k sh(k) + 1/2, before the clamp at 0; V is T or its dual, sh(k) a Vec3<V>.
template <class V, class Sh>
NS_KERNEL Vec3<V> color_before_clamp(int num_bases, const ViewDirection<V>& direction, const Sh& sh) {
  using S = scalar_t<V>;
  Vec3<V> color{V(S(0.5)), V(S(0.5)), V(S(0.5))};
  for_each_sh_basis(num_bases, direction.unit,
                    [&](int k, const V& y, const V&, const V&, const V&) { color = color + scaled(sh(k), y); });
  return color;
}
// From the cotangent v of the unclamped colour: hands that of every coefficient to store(k, ·), returns that of the mean.
template <class V, class Sh, class Store>
NS_KERNEL Vec3<V> color_cotangents(int num_bases, const ViewDirection<V>& direction, const Sh& sh, const Vec3<V>& v,
                                   const Store& store) {
  using S = scalar_t<V>;
  const V zero = V(S(0));
  Vec3<V> v_unit{zero, zero, zero};
  for_each_sh_basis(num_bases, direction.unit, [&](int k, const V& y, const V& dx, const V& dy, const V& dz) {
    store(k, scaled(v, y));
    if (k > 0) {
      const V g = dot(sh(k), v);
      v_unit = v_unit + Vec3<V>{dx * g, dy * g, dz * g};
    }
  });
  if (num_bases == 1) return v_unit;
  const V radial = dot(v_unit, direction.unit);
  return scaled(v_unit - scaled(direction.unit, radial), direction.inverse_norm);
}

NS_KERNEL Decisions<bool> decisions_of(uint8_t flags) {
  return {(flags & kXLow) != 0,     (flags & kXHigh) != 0,      (flags & kYLow) != 0,    (flags & kYHigh) != 0,
          (flags & kRedShows) != 0, (flags & kGreenShows) != 0, (flags & kBlueShows) != 0};
}
NS_KERNEL uint8_t flags_of(const Decisions<bool>& d) {
  return uint8_t((d.x_low ? kXLow : 0) | (d.x_high ? kXHigh : 0) | (d.y_low ? kYLow : 0) | (d.y_high ? kYHigh : 0) |
                 (d.red ? kRedShows : 0) | (d.green ? kGreenShows : 0) | (d.blue ? kBlueShows : 0));
}

template <class T, class V>
NS_KERNEL void project_one(const Scene<T>& scene, const Camera<T>& camera, const Geometry<V>& g,
                           const Decisions<bool>& decisions, Projected<V>& out) {
  const RasterizationConfig<T>& c = scene.config;
  project(camera, g, decisions, c.eps2d, c.antialiased, c.min_compensation, c.perspective_epsilon, out);
}

}  // namespace cuda
}  // namespace ns_diff3r
