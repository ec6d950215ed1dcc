// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "vec.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
struct Quaternion {
  T w, x, y, z;
};

// A rotation matrix by rows.
template <class T>
struct Rotation {
  Vec3<T> row0, row1, row2;
};

template <class T>
struct NormalizedQuaternion {
  Quaternion<T> unit;
  T inverse_norm;
};

template <class T>
NS_HD NormalizedQuaternion<T> normalize(const Quaternion<T>& q) {
  using S = scalar_t<T>;
  const T inverse = S(1) / sqrt(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
  return {{q.w * inverse, q.x * inverse, q.y * inverse, q.z * inverse}, inverse};
}

template <class T>
NS_HD Rotation<T> rotation_matrix(const Quaternion<T>& q) {
  using S = scalar_t<T>;
  const S one(1), two(2);
  const T xx = q.x * q.x, yy = q.y * q.y, zz = q.z * q.z;
  const T xy = q.x * q.y, xz = q.x * q.z, yz = q.y * q.z;
  const T wx = q.w * q.x, wy = q.w * q.y, wz = q.w * q.z;
  return {{one - (yy + zz) * two, (xy - wz) * two, (xz + wy) * two},
          {(xy + wz) * two, one - (xx + zz) * two, (yz - wx) * two},
          {(xz - wy) * two, (yz + wx) * two, one - (xx + yy) * two}};
}

// Cotangent of the raw quaternion, given that of the rotation matrix: through R(q/|q|).
template <class T>
NS_HD Quaternion<T> rotation_matrix_vjp(const NormalizedQuaternion<T>& n, const Rotation<T>& v) {
  using S = scalar_t<T>;
  const S two(2);
  const Quaternion<T>& q = n.unit;
  const T a = v.row2.y - v.row1.z, b = v.row0.z - v.row2.x, c = v.row1.x - v.row0.y;
  const T xy = v.row0.y + v.row1.x, xz = v.row0.z + v.row2.x, yz = v.row1.z + v.row2.y;
  const T w = (q.x * a + q.y * b + q.z * c) * two;
  const T x = (q.y * xy + q.z * xz + q.w * a - q.x * (v.row1.y + v.row2.z) * two) * two;
  const T y = (q.x * xy + q.z * yz + q.w * b - q.y * (v.row0.x + v.row2.z) * two) * two;
  const T z = (q.x * xz + q.y * yz + q.w * c - q.z * (v.row0.x + v.row1.y) * two) * two;
  const T radial = q.w * w + q.x * x + q.y * y + q.z * z;
  return {(w - q.w * radial) * n.inverse_norm, (x - q.x * radial) * n.inverse_norm, (y - q.y * radial) * n.inverse_norm,
          (z - q.z * radial) * n.inverse_norm};
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
