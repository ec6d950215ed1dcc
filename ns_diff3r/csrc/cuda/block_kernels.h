// SPDX-License-Identifier: Apache-2.0
// diag(JᵀWJ) and its per-Gaussian diagonal blocks: Σ_views Gᵀ B G with B the 9x9 moment matrix of RᵀWR over
// (q0..q5, rgb) (moment_kernels.h) and G the Jacobian of those nine numbers in the Gaussian's parameters.
#pragma once
#include "chain_kernels.h"
#include "moment_kernels.h"

namespace ns_diff3r {
namespace cuda {

constexpr int kGeometryParameters = 11;  // means 3, quats 4, scales 3, opacity 1

template <class T>
struct BlockOutputs {
  GaussianOutputs<T> diagonal;
  T *geometry, *sh;  // [N, 11, 11] and [N, 3, K, K], or null
};

// Where entry (i, j) of B lies among the moments; only asked for where B is not zero (two different colours).
NS_KERNEL int moment_index(int a, int b) {
  const int i = smaller(a, b), j = larger(a, b);
  constexpr int products[6][6] = {{0, 1, 2, 3, 4, 5},    {1, 3, 4, 6, 7, 8},     {2, 4, 5, 7, 8, 9},
                                  {3, 6, 7, 10, 11, 12}, {4, 7, 8, 11, 12, 13}, {5, 8, 9, 12, 13, 14}};
  if (j < 6) return products[i][j];
  if (i < 6) return 15 + 6 * (j - 6) + i;
  return 33 + (i - 6);
}

// Row a of G: the derivatives of number a of (q0..q5, rgb) by the eleven geometry parameters.
template <class T>
NS_KERNEL void geometry_jacobian(const Scene<T>& scene, const Camera<T>& camera, const Geometry<T>& g, int64_t i,
                                 const Decisions<bool>& decisions, T (&jacobian)[9][kGeometryParameters]) {
  const T zero = T(0);
  const int K = scene.num_sh_bases;
  Projected<T> projected;
  project_one(scene, camera, g, decisions, projected);
  const Splat<T>& s = projected.splat;
  for (int a = 0; a < 6; ++a) {
    const Splat<T> v = splat_cotangents(s, [&](int k) { return k == a ? T(1) : zero; });
    CameraCotangent<T> unused;
    const Geometry<T> row = project_vjp(camera, projected, decisions, scene.config.antialiased, v, unused);
    T* j = jacobian[a];
    j[0] = row.mean.x, j[1] = row.mean.y, j[2] = row.mean.z;
    j[3] = row.quat.w, j[4] = row.quat.x, j[5] = row.quat.y, j[6] = row.quat.z;
    j[7] = row.scale.x, j[8] = row.scale.y, j[9] = row.scale.z, j[10] = row.opacity;
  }
  const ViewDirection<T> direction = view_direction(camera, g.mean, K);
  for (int c = 0; c < 3; ++c) {
    for (int p = 0; p < kGeometryParameters; ++p) jacobian[6 + c][p] = zero;
    if (K == 1) continue;
    const Vec3<T> unit = clamp_color_vjp<T>(decisions, {T(c == 0), T(c == 1), T(c == 2)});
    const Vec3<T> v = color_cotangents(
        K, direction, [&](int k) { return load_sh(scene.params, K, i, k); }, unit, [](int, const Vec3<T>&) {});
    jacobian[6 + c][0] = v.x, jacobian[6 + c][1] = v.y, jacobian[6 + c][2] = v.z;
  }
}

// Its arrays of hundreds of numbers live in local memory: it runs once a solve.
template <class T>
struct BlockKernel {
  static constexpr int kThreads = 128, kBlocksPerMultiprocessor = 2;
  using Shared = NoShared;
  Scene<T> scene;
  const T* slots;
  BlockOutputs<T> out;

  template <class Block>
  NS_KERNEL void operator()(Block& block, Shared&) const {
    constexpr int P = kGeometryParameters;
    const int64_t i = block.index() * kThreads + block.thread();
    if (i >= scene.num_gaussians) return;
    const int K = scene.num_sh_bases;
    T* const geometry = out.geometry ? out.geometry + i * P * P : nullptr;
    T* const sh = out.sh ? out.sh + i * 3 * K * K : nullptr;
    if (geometry)
      for (int k = 0; k < P * P; ++k) geometry[k] = T(0);
    if (sh)
      for (int k = 0; k < 3 * K * K; ++k) sh[k] = T(0);
    ShSum<T> colors(out.diagonal, K, i);
    colors.clear();
    T diagonal[P];
    for (int p = 0; p < P; ++p) diagonal[p] = T(0);
    const Geometry<T> g = load_geometry(scene.params, i);
    for (int view = 0; view < scene.num_views; ++view) {
      const int64_t record = view * scene.num_gaussians + i;
      if (!visible(scene, record)) continue;
      const Camera<T>& camera = scene.cameras[view];
      const Decisions<bool> decisions = decisions_of(scene.flags[record]);
      T moments[kMoments], jacobian[9][P];
      gather<kMoments, kMoments>(scene, record, slots, moments);
      geometry_jacobian(scene, camera, g, i, decisions, jacobian);
      for (int p = 0; p < P; ++p) {
        // B times column p; rows of different colours do not mix
        T product[9];
        const int used = p < 3 ? 9 : 6;
        for (int a = 0; a < 9; ++a) {
          T sum = T(0);
          for (int b = 0; b < used; ++b)
            if (a < 6 || b < 6 || a == b) sum += moments[moment_index(a, b)] * jacobian[b][p];
          product[a] = sum;
        }
        for (int q = geometry ? 0 : p; q <= p; ++q) {
          T value = T(0);
          for (int a = 0; a < (q < 3 ? 9 : 6); ++a) value += jacobian[a][q] * product[a];
          if (q == p) diagonal[p] += value;
          if (!geometry) continue;
          geometry[q * P + p] += value;
          if (q != p) geometry[p * P + q] += value;
        }
      }
      const Vec3<T> cc = clamp_color_vjp<T>(decisions, {moments[33], moments[34], moments[35]});
      const ViewDirection<T> direction = view_direction(camera, g.mean, K);
      for_each_sh_basis(K, direction.unit, [&](int k, const T& y, const T&, const T&, const T&) {
        colors.add(k, scaled(cc, y * y));
      });
      if (!sh) continue;
      T basis[kMaxShBases];
      for_each_sh_basis(K, direction.unit, [&](int k, const T& y, const T&, const T&, const T&) { basis[k] = y; });
      for (int k = 0; k < K; ++k)
        for (int m = 0; m < K; ++m) {
          const Vec3<T> value = scaled(cc, basis[k] * basis[m]);
          sh[k * K + m] += value.x;
          sh[(K + k) * K + m] += value.y;
          sh[(2 * K + k) * K + m] += value.z;
        }
    }
    colors.store();
    store_geometry(out.diagonal, i,
                   Geometry<T>{{diagonal[0], diagonal[1], diagonal[2]},
                               {diagonal[3], diagonal[4], diagonal[5], diagonal[6]},
                               {diagonal[7], diagonal[8], diagonal[9]},
                               diagonal[10]});
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
