// SPDX-License-Identifier: Apache-2.0
// Sixteen consecutive Gaussians between the parameter arrays (one row a Gaussian) and lanes.
#pragma once
#include "../math/dual.h"
#include "../math/projection.h"
#include "plan_view.h"
#include "prefetch.h"
#include "transpose.h"

namespace ns_diff3r {
namespace NS_ISA {

// Sixteen Gaussians from `first`, of which `count` exist; the lanes beyond repeat the last one and are never stored.
struct Rows {
  int64_t first;
  int count;

  NS_HD int64_t row(int lane) const { return first + (lane < count ? lane : count - 1); }
};

NS_HD Rows rows_from(int64_t first, int64_t num_gaussians) {
  return {first, num_gaussians - first < kLanes ? int(num_gaussians - first) : kLanes};
}

constexpr int64_t kRowsAhead = 4 * kGroup;

// Asks for the rows of a group that comes soon: six arrays are too many streams for the hardware to see them coming.
template <class T>
NS_HD void prefetch_rows(const GaussianPointers<T>& p, int64_t first, int64_t num_gaussians, int num_bases) {
  if (first >= num_gaussians) return;
  prefetch_bytes(p.means + first * 3, kGroup * 3 * sizeof(T));
  prefetch_bytes(p.quats + first * 4, kGroup * 4 * sizeof(T));
  prefetch_bytes(p.scales + first * 3, kGroup * 3 * sizeof(T));
  prefetch_bytes(p.opacities + first, kGroup * sizeof(T));
  prefetch_bytes(p.sh0 + first * 3, kGroup * 3 * sizeof(T));
  const int64_t width = 3 * (num_bases - 1);
  prefetch_bytes(p.shN + first * width, size_t(kGroup * width) * sizeof(T));
}

// Columns of an array [N, Width].
template <int Width, class T>
NS_HD void load_columns(const T* p, const Rows& rows, Lanes<T> (&out)[Width]) {
  if (rows.count == kLanes) {
    deinterleave<Width>(p + rows.first * Width, out);
    return;
  }
  for (int k = 0; k < Width; ++k) {
    alignas(64) T lane[kLanes];
    for (int l = 0; l < kLanes; ++l) lane[l] = p[rows.row(l) * Width + k];
    out[k] = Lanes<T>::load(lane);
  }
}
template <int Width, class T>
NS_HD void store_columns(T* p, const Rows& rows, const Lanes<T> (&x)[Width]) {
  if (rows.count == kLanes) {
    interleave<Width>(x, p + rows.first * Width);
    return;
  }
  for (int k = 0; k < Width; ++k) {
    alignas(64) T lane[kLanes];
    x[k].store(lane);
    for (int l = 0; l < rows.count; ++l) p[rows.row(l) * Width + k] = lane[l];
  }
}

// One column of an array [N, stride]
template <class T>
NS_HD Lanes<T> load_column(const T* p, const Rows& rows, int64_t stride, int64_t offset) {
  alignas(64) T lane[kLanes];
  for (int l = 0; l < kLanes; ++l) lane[l] = p[rows.row(l) * stride + offset];
  return Lanes<T>::load(lane);
}
template <class T>
NS_HD void store_column(T* p, const Rows& rows, int64_t stride, int64_t offset, const Lanes<T>& x) {
  alignas(64) T lane[kLanes];
  x.store(lane);
  for (int l = 0; l < rows.count; ++l) p[rows.row(l) * stride + offset] = lane[l];
}

template <class T>
NS_HD Vec3<Lanes<T>> load_vec3(const T* p, const Rows& rows) {
  Lanes<T> column[3];
  load_columns<3>(p, rows, column);
  return {column[0], column[1], column[2]};
}
template <class T>
NS_HD Geometry<Lanes<T>> load_geometry(const GaussianPointers<T>& p, const Rows& rows) {
  Lanes<T> quat[4], opacity[1];
  load_columns<4>(p.quats, rows, quat);
  load_columns<1>(p.opacities, rows, opacity);
  return {load_vec3(p.means, rows), {quat[0], quat[1], quat[2], quat[3]}, load_vec3(p.scales, rows), opacity[0]};
}
template <class T>
NS_HD void load_sh(const GaussianPointers<T>& p, const Rows& rows, int num_bases, Vec3<Lanes<T>>* sh) {
  sh[0] = load_vec3(p.sh0, rows);
  const int64_t stride = int64_t(num_bases - 1) * 3;
  for (int k = 1; k < num_bases; ++k) {
    const int64_t offset = int64_t(k - 1) * 3;
    sh[k] = {load_column(p.shN, rows, stride, offset), load_column(p.shN, rows, stride, offset + 1),
             load_column(p.shN, rows, stride, offset + 2)};
  }
}

template <class T>
NS_HD void store_geometry(const GaussianOutputs<T>& out, const Rows& rows, const Geometry<Lanes<T>>& g) {
  const Lanes<T> mean[3] = {g.mean.x, g.mean.y, g.mean.z};
  const Lanes<T> quat[4] = {g.quat.w, g.quat.x, g.quat.y, g.quat.z};
  const Lanes<T> scale[3] = {g.scale.x, g.scale.y, g.scale.z};
  const Lanes<T> opacity[1] = {g.opacity};
  store_columns<3>(out.means, rows, mean);
  store_columns<4>(out.quats, rows, quat);
  store_columns<3>(out.scales, rows, scale);
  store_columns<1>(out.opacities, rows, opacity);
}
template <class T>
NS_HD void store_sh(const GaussianOutputs<T>& out, const Rows& rows, int num_bases, const Vec3<Lanes<T>>* sh) {
  const Lanes<T> constant[3] = {sh[0].x, sh[0].y, sh[0].z};
  store_columns<3>(out.sh0, rows, constant);
  const int64_t stride = int64_t(num_bases - 1) * 3;
  for (int k = 1; k < num_bases; ++k) {
    const int64_t offset = int64_t(k - 1) * 3;
    store_column(out.shN, rows, stride, offset, sh[k].x);
    store_column(out.shN, rows, stride, offset + 1, sh[k].y);
    store_column(out.shN, rows, stride, offset + 2, sh[k].z);
  }
}

template <class T>
NS_HD Geometry<Lanes<T>> zero_geometry() {
  const Lanes<T> zero(T(0));
  return {{zero, zero, zero}, {zero, zero, zero, zero}, {zero, zero, zero}, zero};
}
template <class T>
NS_HD void accumulate(Geometry<T>& a, const Geometry<T>& b) {
  a.mean = a.mean + b.mean;
  a.quat = {a.quat.w + b.quat.w, a.quat.x + b.quat.x, a.quat.y + b.quat.y, a.quat.z + b.quat.z};
  a.scale = a.scale + b.scale;
  a.opacity = a.opacity + b.opacity;
}
// Lanes outside the mask (Gaussians the view does not show, whose projection may be anything) become 0.
template <class T>
NS_HD Vec3<Lanes<T>> keep(const Mask<T>& m, const Vec3<Lanes<T>>& v) {
  return {keep(m, v.x), keep(m, v.y), keep(m, v.z)};
}
template <class T>
NS_HD Geometry<Lanes<T>> keep(const Mask<T>& m, const Geometry<Lanes<T>>& g) {
  return {keep(m, g.mean),
          {keep(m, g.quat.w), keep(m, g.quat.x), keep(m, g.quat.y), keep(m, g.quat.z)},
          keep(m, g.scale),
          keep(m, g.opacity)};
}

// ---- sixteen decisions ---------------------------------------------------------------------------------------------

template <class T>
NS_HD Decisions<Mask<T>> load_decisions(const GroupDecisions& d) {
  using M = Mask<T>;
  return {M::from_bits(d.bits[0]), M::from_bits(d.bits[1]), M::from_bits(d.bits[2]), M::from_bits(d.bits[3]),
          M::from_bits(d.bits[4]), M::from_bits(d.bits[5]), M::from_bits(d.bits[6])};
}
template <class T>
NS_HD void store_decisions(const Decisions<Mask<T>>& d, GroupDecisions& out) {
  const uint32_t bits[7] = {d.x_low.to_bits(), d.x_high.to_bits(), d.y_low.to_bits(), d.y_high.to_bits(),
                            d.red.to_bits(),   d.green.to_bits(),  d.blue.to_bits()};
  for (int k = 0; k < 7; ++k) out.bits[k] = uint16_t(bits[k]);
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
