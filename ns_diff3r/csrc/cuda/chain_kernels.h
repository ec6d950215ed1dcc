// SPDX-License-Identifier: Apache-2.0
// The per-Gaussian half of every product, a thread a Gaussian with all its views, so that no two threads share a row:
// tangents of raw parameters to tangent records, and slots back to cotangents of raw parameters. The projection is
// computed again: its 60 numbers a view would cost more to read than to compute.
#pragma once
#include "gaussians.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
NS_KERNEL bool visible(const Scene<T>& scene, int64_t record) {
  return (scene.flags[record] & kVisible) != 0;
}

template <class T>
struct TangentKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 4;
  using Shared = NoShared;
  using D = Dual<T>;
  Scene<T> scene;
  GaussianPointers<T> tangents;
  TangentRecord<T>* out;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t i = block.index() * kThreads + block.thread();
    if (i >= scene.num_gaussians) return;
    const int K = scene.num_sh_bases;
    const Geometry<T> value = load_geometry(scene.params, i), tangent = load_geometry(tangents, i);
    for (int view = 0; view < scene.num_views; ++view) {
      const int64_t record = view * scene.num_gaussians + i;
      if (!visible(scene, record)) continue;
      const Camera<T>& camera = scene.cameras[view];
      const Decisions<bool> decisions = decisions_of(scene.flags[record]);
      Projected<T> projected;
      project_one(scene, camera, value, decisions, projected);
      const Splat<T>& s = projected.splat;
      const Splat<T> d = project_jvp(camera, projected, decisions, scene.config.antialiased, tangent);
      const Vec3<D> mean{D(value.mean.x, tangent.mean.x), D(value.mean.y, tangent.mean.y), D(value.mean.z, tangent.mean.z)};
      const Vec3<D> color = color_before_clamp(K, view_direction(camera, mean, K), [&](int k) {
        const Vec3<T> v = load_sh(scene.params, K, i, k), t = load_sh(tangents, K, i, k);
        return Vec3<D>{D(v.x, t.x), D(v.y, t.y), D(v.z, t.z)};
      });
      TangentRecord<T> row;
      row.q[0] = d.opacity;
      row.q[1] = -(s.conic_a * d.mean_x + s.conic_b * d.mean_y);
      row.q[2] = -(s.conic_b * d.mean_x + s.conic_c * d.mean_y);
      row.q[3] = d.conic_a * T(-0.5);
      row.q[4] = -d.conic_b;
      row.q[5] = d.conic_c * T(-0.5);
      row.color[0] = decisions.red ? color.x.d : T(0);
      row.color[1] = decisions.green ? color.y.d : T(0);
      row.color[2] = decisions.blue ? color.z.d : T(0);
      row.unused[0] = row.unused[1] = row.unused[2] = T(0);
      out[record] = row;
    }
  }
};

// Sums of `Numbers` numbers over the slots of a record, which lie one behind the other.
template <int Numbers, int Slot, class T>
NS_KERNEL void gather(const Scene<T>& scene, int64_t record, const T* slots, T (&sums)[Numbers]) {
  struct alignas(16) Whole {  // read sixteen bytes at a time
    T numbers[Slot];
  };
  for (int k = 0; k < Numbers; ++k) sums[k] = T(0);
  for (int64_t s = scene.record_slots[record]; s < scene.record_slots[record + 1]; ++s) {
    const Whole slot = reinterpret_cast<const Whole*>(slots)[s];
    NS_UNROLL for (int k = 0; k < Numbers; ++k) sums[k] += slot.numbers[k];
  }
}

// Cotangents of the screen numbers from the numbers of a slot; sum(i) gives number i.
template <class V, class Sum>
NS_KERNEL Splat<V> splat_cotangents(const Splat<V>& s, const Sum& sum) {
  using S = scalar_t<V>;
  Splat<V> v;
  v.opacity = sum(0);  // of ln(opacity)
  v.mean_x = -(s.conic_a * sum(1) + s.conic_b * sum(2));
  v.mean_y = -(s.conic_b * sum(1) + s.conic_c * sum(2));
  v.conic_a = sum(3) * S(-0.5);
  v.conic_b = -sum(4);
  v.conic_c = sum(5) * S(-0.5);
  v.color = {sum(6), sum(7), sum(8)};
  v.depth = V(S(0));
  return v;
}

// Per block and view: cotangents of R by rows (9), t (3), camera centre (3), and the twist's rotation (3).
constexpr int kCameraSums = 18;

template <class T>
NS_KERNEL void camera_cotangents(const Camera<T>& camera, const Projected<T>& f, const Vec3<T>& mean,
                                 const CameraCotangent<T>& v, const Vec3<T>& v_mean_sh, T (&out)[kCameraSums]) {
  const T* r = camera.rotation;
  Vec3<T> twist = cross(f.p, v.p);
  const Vec3<T> columns[3] = {{v.row0.x, v.row1.x, v.row2.x}, {v.row0.y, v.row1.y, v.row2.y}, {v.row0.z, v.row1.z, v.row2.z}};
  // Σ_j (column j of R) x (column j of its cotangent)
  for (int j = 0; j < 3; ++j) twist = twist + cross(Vec3<T>{r[j], r[3 + j], r[6 + j]}, columns[j]);
  const T vp[3] = {v.p.x, v.p.y, v.p.z};
  const Vec3<T> rows[3] = {v.row0, v.row1, v.row2};
  for (int i = 0; i < 3; ++i) {
    out[3 * i] = vp[i] * mean.x + rows[i].x;
    out[3 * i + 1] = vp[i] * mean.y + rows[i].y;
    out[3 * i + 2] = vp[i] * mean.z + rows[i].z;
    out[9 + i] = vp[i];
  }
  out[12] = -v_mean_sh.x, out[13] = -v_mean_sh.y, out[14] = -v_mean_sh.z;
  out[15] = twist.x, out[16] = twist.y, out[17] = twist.z;
}

// Slots -> out = scale * (cotangents of the raw parameters, added over views in view order). camera_partial [V, blocks, 18].
template <class T, bool Depth, bool Cameras>
struct CotangentKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = Cameras ? 2 : 4;
  struct Shared {
    double partial[kThreads / kWarp];
  };
  Scene<T> scene;
  const T* slots;
  GaussianOutputs<T> out;
  double* camera_partial;
  int64_t num_blocks;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared& shared) const {
    const int64_t i = block.index() * kThreads + block.thread();
    const bool exists = i < scene.num_gaussians;
    if (!Cameras && !exists) return;
    const int K = scene.num_sh_bases;
    Geometry<T> total = zero_geometry<T>(), g = zero_geometry<T>();
    ShSum<T> colors(out, K, i);
    if (exists) {
      g = load_geometry(scene.params, i);
      colors.clear();
    }
    for (int view = 0; view < scene.num_views; ++view) {
      const int64_t record = view * scene.num_gaussians + i;
      T of_camera[kCameraSums];
      for (int k = 0; k < kCameraSums; ++k) of_camera[k] = T(0);
      if (exists && visible(scene, record)) {
        const Camera<T>& camera = scene.cameras[view];
        const Decisions<bool> decisions = decisions_of(scene.flags[record]);
        T sums[Depth ? 10 : 9];
        gather<Depth ? 10 : 9, 12>(scene, record, slots, sums);
        Projected<T> projected;
        project_one(scene, camera, g, decisions, projected);
        Splat<T> v = splat_cotangents(projected.splat, [&](int k) { return sums[k]; });
        if constexpr (Depth) v.depth = sums[9];
        CameraCotangent<T> v_camera;
        Geometry<T> v_geometry = project_vjp(camera, projected, decisions, scene.config.antialiased, v, v_camera);
        const Vec3<T> v_mean_sh = color_cotangents(
            K, view_direction(camera, g.mean, K), [&](int k) { return load_sh(scene.params, K, i, k); },
            clamp_color_vjp<T>(decisions, v.color), [&](int k, const Vec3<T>& c) { colors.add(k, c); });
        if constexpr (Cameras) camera_cotangents(camera, projected, g.mean, v_camera, v_mean_sh, of_camera);
        v_geometry.mean = v_geometry.mean + v_mean_sh;
        accumulate(total, v_geometry);
      }
      if constexpr (Cameras)
        for (int k = 0; k < kCameraSums; ++k) {
          const double sum = block_sum<kThreads>(block, double(of_camera[k]), shared.partial);
          if (block.thread() == 0) camera_partial[(view * num_blocks + block.index()) * kCameraSums + k] = sum;
        }
    }
    if (!exists) return;
    store_geometry(out, i, total);
    colors.store();
  }
};

// Adds up what the blocks of CotangentKernel found, in their order: out [V, 18]. A block a view.
struct CameraSumKernel {
  static constexpr int kThreads = 32, kBlocksPerMultiprocessor = 1;
  using Shared = NoShared;
  const double* partial;
  double* out;
  int64_t num_blocks;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int k = block.thread();
    if (k >= kCameraSums) return;
    double sum = 0.0;
    for (int64_t b = 0; b < num_blocks; ++b) sum += partial[(block.index() * num_blocks + b) * kCameraSums + k];
    out[block.index() * kCameraSums + k] = sum;
  }
};

template <class T>
NS_KERNEL Vec3<T> tangent_of(const Vec3<Dual<T>>& v) {
  return {v.x.d, v.y.d, v.z.d};
}

// Completes the tangents of the moments of s by what the mean's own motion does to dx and dy.
template <class T>
NS_KERNEL void move_moments(const Dual<T>& mean_x, const Dual<T>& mean_y, Dual<T> (&m)[6]) {
  const T x = mean_x.d, y = mean_y.d;
  m[3].d += T(2) * x * m[1].v;
  m[4].d += x * m[2].v + y * m[1].v;
  m[5].d += T(2) * y * m[2].v;
  m[1].d += x * m[0].v;
  m[2].d += y * m[0].v;
}

// The tangent part of CotangentKernel on dual numbers: a slot holds nine values, then their tangents.
template <class T>
struct CotangentTangentKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 2;
  using Shared = NoShared;
  using D = Dual<T>;
  Scene<T> scene;
  GaussianPointers<T> tangents;
  const T* slots;
  GaussianOutputs<T> out;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    const int64_t i = block.index() * kThreads + block.thread();
    if (i >= scene.num_gaussians) return;
    const int K = scene.num_sh_bases;
    const RasterizationConfig<T>& config = scene.config;
    Geometry<T> total = zero_geometry<T>();
    ShSum<T> colors(out, K, i);
    colors.clear();
    const Geometry<D> geometry = dual_geometry(load_geometry(scene.params, i), load_geometry(tangents, i));
    for (int view = 0; view < scene.num_views; ++view) {
      const int64_t record = view * scene.num_gaussians + i;
      if (!visible(scene, record)) continue;
      const Camera<T>& camera = scene.cameras[view];
      const Decisions<bool> decisions = decisions_of(scene.flags[record]);
      T sums[18];
      gather<18, 20>(scene, record, slots, sums);
      Projected<D> projected;
      project_one(scene, camera, geometry, decisions, projected);
      const auto sum = [&](int k) { return D(sums[k], sums[9 + k]); };
      D moments[6] = {sum(0), sum(1), sum(2), sum(3), sum(4), sum(5)};
      move_moments(projected.splat.mean_x, projected.splat.mean_y, moments);
      const Splat<D> v = splat_cotangents(projected.splat, [&](int k) { return k < 6 ? moments[k] : sum(k); });
      CameraCotangent<D> v_camera;
      const Geometry<D> v_geometry = project_vjp(camera, projected, decisions, config.antialiased, v, v_camera);
      const Vec3<D> v_mean_sh = color_cotangents(
          K, view_direction(camera, geometry.mean, K),
          [&](int k) {
            const Vec3<T> c = load_sh(scene.params, K, i, k), t = load_sh(tangents, K, i, k);
            return Vec3<D>{D(c.x, t.x), D(c.y, t.y), D(c.z, t.z)};
          },
          clamp_color_vjp<D>(decisions, v.color),
          [&](int k, const Vec3<D>& c) { colors.add(k, tangent_of(c)); });
      accumulate(total, Geometry<T>{tangent_of(v_geometry.mean + v_mean_sh),
                                    {v_geometry.quat.w.d, v_geometry.quat.x.d, v_geometry.quat.y.d, v_geometry.quat.z.d},
                                    tangent_of(v_geometry.scale),
                                    v_geometry.opacity.d});
    }
    store_geometry(out, i, total);
    colors.store();
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
