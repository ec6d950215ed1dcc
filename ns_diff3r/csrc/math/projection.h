// SPDX-License-Identifier: Apache-2.0
// From one Gaussian's raw parameters and one view to the ten screen numbers that the pixels see, and back.
//
//   p = R m + t                         mean in camera axes; depth z = p_z
//   U = J R                             J (2x3): EWA Jacobian of the perspective division, its x/z and y/z clamped
//   T = U R(q),  B = diag(exp 2s)       T (2x3); cov2d = T B Tᵀ + eps2d I
//   X = conic = cov2d⁻¹,  opacity = sigmoid(l) [· sqrt(det(T B Tᵀ) / det(cov2d)) when antialiased],
//   colour = max(SH(m - camera centre) + 1/2, 0)
//
// A needle (long, and thinner than a pixel) makes cov2d nearly singular, and float32 loses all digits of a difference of
// its entries' products. With n = T_0 x T_1, Lagrange's identity gives without cancellation
//   det(T B Tᵀ) = Σ_i n_i² B_j B_k,     adj(T B Tᵀ) T = Z = [(B T_1) x n; n x (B T_0)],     Y = X T = (Z + eps2d T) / det,
// and both jvp and vjp are written in Y: dX = -(E B Yᵀ + Y B Eᵀ) with E = X dU R(q) + Y (Ω + diag(ds)), where Ω = [ω]ₓ is
// the rotation R(q) (I + Ω). In it a change of size or direction is a product, never a difference.
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
  Vec3<T> t0, t1;  // rows of T
  Vec3<T> variance;  // diagonal of B
  Vec3<T> y0, y1;  // rows of Y
  // When antialiased: rows of N = ((T B Tᵀ)⁻¹ - X) T, and the symmetric H = Tᵀ N by diagonal and (yz, xz, xy); 0 where the
  // compensation is held at its least.
  Vec3<T> n0, n1, h_diagonal, h_mixed;
  T inverse_det, compensation;
  T one_minus_sigmoid;  // with all its digits, also where the sigmoid rounds to 1
  Splat<T> splat;
  T cov_a, cov_c;  // variances in x and y, blurred
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
  const Vec3<T> u0{jx * r[0] + jxz * r[6], jx * r[1] + jxz * r[7], jx * r[2] + jxz * r[8]};
  const Vec3<T> u1{jy * r[3] + jyz * r[6], jy * r[4] + jyz * r[7], jy * r[5] + jyz * r[8]};
  out.quat = normalize(g.quat);
  out.rotation = rotation_matrix(out.quat.unit);
  const Vec3<T> scale{exp(g.scale.x), exp(g.scale.y), exp(g.scale.z)};
  out.variance = product(scale, scale);
  out.t0 = times(u0, out.rotation);
  out.t1 = times(u1, out.rotation);
  const Vec3<T> w0 = product(out.variance, out.t0), w1 = product(out.variance, out.t1);
  const T a = dot(w0, out.t0), b = dot(w0, out.t1), c = dot(w1, out.t1);
  const Vec3<T> n = cross(out.t0, out.t1);
  const Vec3<T> q{n.x * scale.y * scale.z, n.y * scale.x * scale.z, n.z * scale.x * scale.y};
  const T det_sharp = dot(q, q);
  const T blur = (a + c) * eps2d + T(eps2d * eps2d);
  const T det = det_sharp + blur;
  out.cov_a = a + eps2d;
  out.cov_c = c + eps2d;
  out.inverse_det = S(1) / det;
  const T e = exp(-g.opacity);
  const T sigmoid = S(1) / (S(1) + e);
  out.one_minus_sigmoid = e * sigmoid;
  Splat<T>& s = out.splat;
  const Vec3<T> z0 = cross(w1, n), z1 = cross(n, w0);
  out.y0 = scaled(z0 + scaled(out.t0, eps2d), out.inverse_det);
  out.y1 = scaled(z1 + scaled(out.t1, eps2d), out.inverse_det);
  if (antialiased) {
    const T ratio = det_sharp * out.inverse_det;
    const auto active = value_of(ratio) > value_of(T(min_compensation));
    out.compensation = sqrt(select(active, ratio, T(min_compensation)));
    s.opacity = sigmoid * out.compensation;
    const T zero = T(S(0));
    const T along = select(active, blur * out.inverse_det / det_sharp, zero);
    const T across = select(active, out.inverse_det * eps2d, zero);
    out.n0 = scaled(z0, along) - scaled(out.t0, across);
    out.n1 = scaled(z1, along) - scaled(out.t1, across);
    // Tᵀ Z term by term: multiplied out, its large terms have cancelled
    const Vec3<T>&v = out.variance, &t0 = out.t0, &t1 = out.t1;
    out.h_diagonal = {(v.y * n.z * n.z + v.z * n.y * n.y) * along - (t0.x * t0.x + t1.x * t1.x) * across,
                      (v.x * n.z * n.z + v.z * n.x * n.x) * along - (t0.y * t0.y + t1.y * t1.y) * across,
                      (v.x * n.y * n.y + v.y * n.x * n.x) * along - (t0.z * t0.z + t1.z * t1.z) * across};
    out.h_mixed = {-(v.x * n.y * n.z * along) - (t0.y * t0.z + t1.y * t1.z) * across,
                   -(v.y * n.x * n.z * along) - (t0.x * t0.z + t1.x * t1.z) * across,
                   -(v.z * n.x * n.y * along) - (t0.x * t0.y + t1.x * t1.y) * across};
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

// How the rotation about each axis trades the variances of the two others.
template <class T>
NS_HD Vec3<T> by_rotation(const Vec3<T>& variance) {
  return {variance.y - variance.z, variance.z - variance.x, variance.x - variance.y};
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
                                    bool antialiased, const Splat<T>& v, CameraCotangent<T>& v_camera) {
  Geometry<T> out;
  const Splat<T>& s = f.splat;
  // With V the symmetric cotangent of X: dL = -2 tr(V E B Yᵀ), so everything hangs on V Y and G = Yᵀ V Y. The opacity's
  // share is dL = v tr(N B (dT + T ds)ᵀ).
  const T half_b = v.conic_b * S(0.5);
  const Vec3<T> q0 = scaled(f.y0, v.conic_a) + scaled(f.y1, half_b), q1 = scaled(f.y0, half_b) + scaled(f.y1, v.conic_c);
  Vec3<T> g_diagonal = product(f.y0, q0) + product(f.y1, q1);
  Vec3<T> g_mixed{f.y0.y * q0.z + f.y1.y * q1.z, f.y0.x * q0.z + f.y1.x * q1.z, f.y0.x * q0.y + f.y1.x * q1.y};
  Vec3<T> e0 = scaled(q0, s.conic_a) + scaled(q1, s.conic_b), e1 = scaled(q0, s.conic_b) + scaled(q1, s.conic_c);
  out.opacity = v.opacity * f.one_minus_sigmoid;
  if (antialiased) {
    const T h = v.opacity * S(-0.5);
    g_diagonal = g_diagonal + scaled(f.h_diagonal, h);
    g_mixed = g_mixed + scaled(f.h_mixed, h);
    e0 = e0 + scaled(f.n0, h);
    e1 = e1 + scaled(f.n1, h);
  }
  const Vec3<T> twice = scaled(f.variance, S(-2));
  out.scale = product(twice, g_diagonal);
  out.quat = rotation_vjp(f.quat, product(by_rotation(twice), g_mixed));
  const Rotation<T>& q = f.rotation;
  const Vec3<T> v_t0 = product(twice, e0), v_t1 = product(twice, e1);
  const Vec3<T> v_u0{dot(q.row0, v_t0), dot(q.row1, v_t0), dot(q.row2, v_t0)};
  const Vec3<T> v_u1{dot(q.row0, v_t1), dot(q.row1, v_t1), dot(q.row2, v_t1)};
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

// Tangents of the screen numbers from those of the raw geometry; that of the opacity is relative. The colour is left out.
template <class T, class S>
NS_HD_LARGE Splat<T> project_jvp(const Camera<S>& camera, const Projected<T>& f, const Decisions<mask_t<T>>& decisions,
                                 bool antialiased, const Geometry<T>& d) {
  const Splat<T>& s = f.splat;
  const S* r = camera.rotation;
  const S fx = camera.fx, fy = camera.fy;
  const T zero = T(S(0));
  const Vec3<T> dp{d.mean.x * r[0] + d.mean.y * r[1] + d.mean.z * r[2],
                   d.mean.x * r[3] + d.mean.y * r[4] + d.mean.z * r[5],
                   d.mean.x * r[6] + d.mean.y * r[7] + d.mean.z * r[8]};
  const T rz = f.inverse_z, rzm = f.inverse_z_mean;
  const T d_ln_z = dp.z * rz;
  const T d_ratio_x = select(decisions.x_low | decisions.x_high, zero, dp.x * rz - f.ratio_x * d_ln_z);
  const T d_ratio_y = select(decisions.y_low | decisions.y_high, zero, dp.y * rz - f.ratio_y * d_ln_z);
  const T jx = rz * fx, jy = rz * fy;
  const T djx = -(jx * d_ln_z), djy = -(jy * d_ln_z);
  const T djxz = -(djx * f.ratio_x + jx * d_ratio_x), djyz = -(djy * f.ratio_y + jy * d_ratio_y);
  const Vec3<T> du0{djx * r[0] + djxz * r[6], djx * r[1] + djxz * r[7], djx * r[2] + djxz * r[8]};
  const Vec3<T> du1{djy * r[3] + djyz * r[6], djy * r[4] + djyz * r[7], djy * r[5] + djyz * r[8]};
  const Vec3<T> moved0 = times(du0, f.rotation), moved1 = times(du1, f.rotation);
  const Vec3<T> turn = rotation_jvp(f.quat, d.quat);
  const Vec3<T> e0 = scaled(moved0, s.conic_a) + scaled(moved1, s.conic_b) + cross(f.y0, turn) + product(f.y0, d.scale);
  const Vec3<T> e1 = scaled(moved0, s.conic_b) + scaled(moved1, s.conic_c) + cross(f.y1, turn) + product(f.y1, d.scale);
  const Vec3<T> b0 = product(f.variance, f.y0), b1 = product(f.variance, f.y1);
  Splat<T> out;
  out.conic_a = dot(e0, b0) * S(-2);
  out.conic_b = -(dot(e0, b1) + dot(e1, b0));
  out.conic_c = dot(e1, b1) * S(-2);
  out.opacity = d.opacity * f.one_minus_sigmoid;
  if (antialiased) {
    const Vec3<T>& v = f.variance;
    out.opacity += dot(product(v, f.n0), moved0) + dot(product(v, f.n1), moved1) +
                   dot(product(v, f.h_diagonal), d.scale) + dot(product(by_rotation(v), f.h_mixed), turn);
  }
  out.mean_x = (dp.x - f.p.x * rzm * dp.z) * rzm * fx;
  out.mean_y = (dp.y - f.p.y * rzm * dp.z) * rzm * fy;
  out.depth = dp.z;
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
