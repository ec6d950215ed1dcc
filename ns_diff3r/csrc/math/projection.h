// SPDX-License-Identifier: Apache-2.0
// From one Gaussian's raw parameters and one view to the ten screen numbers that the pixels see, and back.
//
//   p = R m + t                         mean in camera axes; depth z = p_z
//   U = J R                             J (2x3): EWA Jacobian of the perspective division, its x/z and y/z clamped
//   P = U R(q) diag(exp s)              (2x3), so that cov2d = P Pᵀ + eps2d I and, by Lagrange's identity,
//   det(P Pᵀ) = |P_0 x P_1|²            without cancellation
//   conic = cov2d⁻¹,  opacity = sigmoid(l) [· sqrt(det(P Pᵀ) / det(cov2d)) when antialiased],
//   colour = max(SH(m - camera centre) + 1/2, 0)
//
// Everything discontinuous (which clamp is active) is a Decisions value: computed live, or read back from the plan.
#pragma once
#include "camera.h"
#include "quaternion.h"
#include "spherical_harmonics.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class M>
struct Decisions {
  M x_low, x_high, y_low, y_high;  // the ratio is held at that limit
  M red, green, blue;              // the colour is above its clamp at 0
};

template <class T>
struct Geometry {
  Vec3<T> mean;
  Quaternion<T> quat;
  Vec3<T> scale;  // log
  T opacity;      // logit
};

template <class T>
struct Splat {
  T mean_x, mean_y;
  T conic_a, conic_b, conic_c;  // inverse covariance [[a, b], [b, c]]
  T opacity;
  Vec3<T> color;
  T depth;
};

// Values that the vjp needs again.
template <class T>
struct Projected {
  Vec3<T> p;
  T inverse_z, inverse_z_mean;  // the second has the preset's perspective_epsilon in it
  T ratio_x, ratio_y;           // x/z and y/z after the clamp
  NormalizedQuaternion<T> quat;
  Rotation<T> rotation;
  Vec3<T> u0, u1;  // rows of U
  Vec3<T> scale;   // exp s
  Vec3<T> p0, p1;  // rows of P
  T inverse_det, det_ratio, compensation;
  T one_minus_sigmoid;  // with all its digits, also where the sigmoid rounds to 1
  Splat<T> splat;
  T cov_a, cov_b, cov_c;  // blurred
};

template <class T, class S>
NS_HD Vec3<T> to_camera(const Camera<S>& camera, const Vec3<T>& m) {
  const S* r = camera.rotation;
  const S* t = camera.translation;
  return {m.x * r[0] + m.y * r[1] + m.z * r[2] + t[0], m.x * r[3] + m.y * r[4] + m.z * r[5] + t[1],
          m.x * r[6] + m.y * r[7] + m.z * r[8] + t[2]};
}

template <class T, class S>
NS_HD void decide_ratios(const Camera<S>& camera, const Vec3<T>& p, Decisions<mask_t<T>>& decisions) {
  const T rx = p.x / p.z, ry = p.y / p.z;
  decisions.x_low = rx < T(camera.limit_x_low);
  decisions.x_high = rx > T(camera.limit_x_high);
  decisions.y_low = ry < T(camera.limit_y_low);
  decisions.y_high = ry > T(camera.limit_y_high);
}

// Fills everything but the colour.
template <class T, class S>
NS_HD_LARGE void project(const Camera<S>& camera, const Geometry<T>& g, const Decisions<mask_t<T>>& decisions, S eps2d,
                   bool antialiased, S min_compensation, S perspective_epsilon, Projected<T>& out) {
  const Vec3<T> p = to_camera(camera, g.mean);
  const T rz = S(1) / p.z;
  const T rz_mean = perspective_epsilon == S(0) ? rz : S(1) / (p.z + perspective_epsilon);
  const S fx = camera.fx, fy = camera.fy;
  T ratio_x = p.x * rz, ratio_y = p.y * rz;
  ratio_x = select(decisions.x_low, T(camera.limit_x_low), select(decisions.x_high, T(camera.limit_x_high), ratio_x));
  ratio_y = select(decisions.y_low, T(camera.limit_y_low), select(decisions.y_high, T(camera.limit_y_high), ratio_y));
  const T jx = rz * fx, jy = rz * fy;
  const T jxz = -(jx * ratio_x), jyz = -(jy * ratio_y);
  const S* r = camera.rotation;
  out.u0 = {jx * r[0] + jxz * r[6], jx * r[1] + jxz * r[7], jx * r[2] + jxz * r[8]};
  out.u1 = {jy * r[3] + jyz * r[6], jy * r[4] + jyz * r[7], jy * r[5] + jyz * r[8]};
  out.quat = normalize(g.quat);
  out.rotation = rotation_matrix(out.quat.unit);
  out.scale = {exp(g.scale.x), exp(g.scale.y), exp(g.scale.z)};
  const Rotation<T>& q = out.rotation;
  const auto times = [&](const Vec3<T>& u) {
    return Vec3<T>{(u.x * q.row0.x + u.y * q.row1.x + u.z * q.row2.x) * out.scale.x,
                   (u.x * q.row0.y + u.y * q.row1.y + u.z * q.row2.y) * out.scale.y,
                   (u.x * q.row0.z + u.y * q.row1.z + u.z * q.row2.z) * out.scale.z};
  };
  out.p0 = times(out.u0);
  out.p1 = times(out.u1);
  const T a = dot(out.p0, out.p0), b = dot(out.p0, out.p1), c = dot(out.p1, out.p1);
  const Vec3<T> normal = cross(out.p0, out.p1);
  const T det_sharp = dot(normal, normal);
  const T det = det_sharp + (a + c) * eps2d + T(eps2d * eps2d);
  out.cov_a = a + eps2d;
  out.cov_b = b;
  out.cov_c = c + eps2d;
  out.inverse_det = S(1) / det;
  const T e = exp(-g.opacity);
  const T sigmoid = S(1) / (S(1) + e);
  out.one_minus_sigmoid = e * sigmoid;
  Splat<T>& s = out.splat;
  if (antialiased) {
    out.det_ratio = det_sharp * out.inverse_det;
    out.compensation = sqrt(select(value_of(out.det_ratio) > value_of(T(min_compensation)), out.det_ratio, T(min_compensation)));
    s.opacity = sigmoid * out.compensation;
  } else {
    s.opacity = sigmoid;
  }
  s.conic_a = out.cov_c * out.inverse_det;
  s.conic_b = -(b * out.inverse_det);
  s.conic_c = out.cov_a * out.inverse_det;
  s.mean_x = p.x * rz_mean * fx + camera.cx;
  s.mean_y = p.y * rz_mean * fy + camera.cy;
  s.depth = p.z;
  out.p = p;
  out.inverse_z = rz;
  out.inverse_z_mean = rz_mean;
  out.ratio_x = ratio_x;
  out.ratio_y = ratio_y;
}

template <class T>
struct CameraCotangent {
  Vec3<T> p;         // of the camera-space mean: also of the translation
  Vec3<T> row0, row1, row2;  // of R where it appears in U = J R
};

// Cotangents of the raw geometry from those of the screen numbers (colour apart: see color_vjp). That of the opacity is
// relative, the cotangent of ln(opacity): it exists where the opacity itself has underflowed.
template <class T, class S>
NS_HD_LARGE Geometry<T> project_vjp(const Camera<S>& camera, const Projected<T>& f, const Decisions<mask_t<T>>& decisions,
                              S eps2d, bool antialiased, S min_compensation, const Splat<T>& v,
                              CameraCotangent<T>& v_camera) {
  Geometry<T> out;
  const Splat<T>& s = f.splat;
  // conic = X, cov = X⁻¹:  cotangent of cov is -X V X, V symmetric with half the cotangent of b off the diagonal
  const T half_b = v.conic_b * S(0.5);
  const T m00 = s.conic_a * v.conic_a + s.conic_b * half_b, m01 = s.conic_a * half_b + s.conic_b * v.conic_c;
  const T m10 = s.conic_b * v.conic_a + s.conic_c * half_b, m11 = s.conic_b * half_b + s.conic_c * v.conic_c;
  T va = -(m00 * s.conic_a + m01 * s.conic_b);
  T vb = -((m00 * s.conic_b + m01 * s.conic_c) * S(2));
  T vc = -(m10 * s.conic_b + m11 * s.conic_c);
  out.opacity = v.opacity * f.one_minus_sigmoid;
  if (antialiased) {
    // compensation = sqrt(ratio), ratio = det_sharp / det; det_sharp = ac - b², det the same of the blurred covariance
    const auto active = value_of(f.det_ratio) > value_of(T(min_compensation));
    const T v_ratio = select(active, v.opacity * S(0.5) / f.det_ratio, T(S(0))) * f.inverse_det;
    va += v_ratio * ((f.cov_c - eps2d) - f.det_ratio * f.cov_c);
    vc += v_ratio * ((f.cov_a - eps2d) - f.det_ratio * f.cov_a);
    vb += v_ratio * f.cov_b * S(-2) * (S(1) - f.det_ratio);
  }
  const T two_va = va * S(2), two_vc = vc * S(2);
  const Vec3<T> v_p0 = scaled(f.p0, two_va) + scaled(f.p1, vb);
  const Vec3<T> v_p1 = scaled(f.p1, two_vc) + scaled(f.p0, vb);
  out.scale = {v_p0.x * f.p0.x + v_p1.x * f.p1.x, v_p0.y * f.p0.y + v_p1.y * f.p1.y, v_p0.z * f.p0.z + v_p1.z * f.p1.z};
  const Vec3<T> w0{v_p0.x * f.scale.x, v_p0.y * f.scale.y, v_p0.z * f.scale.z};
  const Vec3<T> w1{v_p1.x * f.scale.x, v_p1.y * f.scale.y, v_p1.z * f.scale.z};
  const Rotation<T> v_rotation{scaled(w0, f.u0.x) + scaled(w1, f.u1.x), scaled(w0, f.u0.y) + scaled(w1, f.u1.y),
                               scaled(w0, f.u0.z) + scaled(w1, f.u1.z)};
  out.quat = rotation_matrix_vjp(f.quat, v_rotation);
  const Rotation<T>& q = f.rotation;
  const Vec3<T> v_u0{dot(q.row0, w0), dot(q.row1, w0), dot(q.row2, w0)};
  const Vec3<T> v_u1{dot(q.row0, w1), dot(q.row1, w1), dot(q.row2, w1)};
  const S* r = camera.rotation;
  const S fx = camera.fx, fy = camera.fy;
  const T rz = f.inverse_z, rzm = f.inverse_z_mean;
  const T jx = rz * fx, jy = rz * fy;
  const T v_jxz = v_u0.x * r[6] + v_u0.y * r[7] + v_u0.z * r[8];
  const T v_jyz = v_u1.x * r[6] + v_u1.y * r[7] + v_u1.z * r[8];
  const T v_jx = v_u0.x * r[0] + v_u0.y * r[1] + v_u0.z * r[2] - v_jxz * f.ratio_x;
  const T v_jy = v_u1.x * r[3] + v_u1.y * r[4] + v_u1.z * r[5] - v_jyz * f.ratio_y;
  const T zero = T(S(0));
  const T v_ratio_x = select(decisions.x_low | decisions.x_high, zero, -(v_jxz * jx));
  const T v_ratio_y = select(decisions.y_low | decisions.y_high, zero, -(v_jyz * jy));
  const T mx = v.mean_x * rzm * fx, my = v.mean_y * rzm * fy;
  const T z_from_ratio = (v_ratio_x * f.ratio_x + v_ratio_y * f.ratio_y + v_jx * jx + v_jy * jy) * rz;
  v_camera.p = {mx + v_ratio_x * rz, my + v_ratio_y * rz,
                v.depth - (mx * f.p.x + my * f.p.y) * rzm - z_from_ratio};
  v_camera.row0 = scaled(v_u0, jx);
  v_camera.row1 = scaled(v_u1, jy);
  v_camera.row2 = scaled(v_u0, -(jx * f.ratio_x)) + scaled(v_u1, -(jy * f.ratio_y));
  const Vec3<T>& vp = v_camera.p;
  out.mean = {vp.x * r[0] + vp.y * r[3] + vp.z * r[6], vp.x * r[1] + vp.y * r[4] + vp.z * r[7],
              vp.x * r[2] + vp.y * r[5] + vp.z * r[8]};
  return out;
}

// ---- colour --------------------------------------------------------------------------------------------------------

template <class T>
struct ViewDirection {
  Vec3<T> unit;
  T inverse_norm;
};

// Not computed for a single (constant) basis function, which does not look at it.
template <class T, class S>
NS_HD ViewDirection<T> view_direction(const Camera<S>& camera, const Vec3<T>& mean, int num_bases) {
  if (num_bases == 1) {
    const T zero = T(S(0));
    return {{zero, zero, zero}, zero};
  }
  const Vec3<T> d{mean.x - camera.center[0], mean.y - camera.center[1], mean.z - camera.center[2]};
  const T inverse = S(1) / sqrt(dot(d, d));
  return {scaled(d, inverse), inverse};
}

// Σ_k Y_k sh[k] + 1/2, before the clamp at 0.
template <class T>
NS_HD_LARGE Vec3<T> unclamped_color(int num_bases, const ViewDirection<T>& direction, const Vec3<T>* sh) {
  using S = scalar_t<T>;
  Vec3<T> color{T(S(0.5)), T(S(0.5)), T(S(0.5))};
  for_each_sh_basis(num_bases, direction.unit, [&](int k, const T& y, const T&, const T&, const T&) {
    color = color + scaled(sh[k], y);
  });
  return color;
}

// Cotangent of the (clamped) colour, zero where the clamp holds.
template <class T>
NS_HD Vec3<T> clamp_color_vjp(const Decisions<mask_t<T>>& decisions, const Vec3<T>& v) {
  const T zero = T(scalar_t<T>(0));
  return {select(decisions.red, v.x, zero), select(decisions.green, v.y, zero), select(decisions.blue, v.z, zero)};
}

// Given the cotangent v of the unclamped colour: writes the cotangent of every coefficient (unless v_sh is null) and
// returns that of the mean (minus that of the camera centre).
template <class T>
NS_HD_LARGE Vec3<T> color_vjp(int num_bases, const ViewDirection<T>& direction, const Vec3<T>* sh, const Vec3<T>& v,
                              Vec3<T>* v_sh) {
  using S = scalar_t<T>;
  const T zero = T(S(0));
  Vec3<T> v_unit{zero, zero, zero};
  for_each_sh_basis(num_bases, direction.unit, [&](int k, const T& y, const T& dx, const T& dy, const T& dz) {
    if (v_sh) v_sh[k] = scaled(v, y);
    if (k > 0) {
      const T g = dot(sh[k], v);
      v_unit = v_unit + Vec3<T>{dx * g, dy * g, dz * g};
    }
  });
  if (num_bases == 1) return v_unit;
  const T radial = dot(v_unit, direction.unit);
  return scaled(v_unit - scaled(direction.unit, radial), direction.inverse_norm);
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
