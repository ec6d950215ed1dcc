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

// The rotation ω with R(q + dq) = R(q) (I + [ω]ₓ) to first order, q raw.
template <class T>
NS_HD Vec3<T> rotation_jvp(const NormalizedQuaternion<T>& n, const Quaternion<T>& d) {
  using S = scalar_t<T>;
  const Quaternion<T>& q = n.unit;
  const T two = n.inverse_norm * S(2);
  return {(q.w * d.x - q.x * d.w - q.y * d.z + q.z * d.y) * two, (q.w * d.y + q.x * d.z - q.y * d.w - q.z * d.x) * two,
          (q.w * d.z - q.x * d.y + q.y * d.x - q.z * d.w) * two};
}

// Its transpose: cotangent of the raw quaternion from that of ω.
template <class T>
NS_HD Quaternion<T> rotation_vjp(const NormalizedQuaternion<T>& n, const Vec3<T>& v) {
  using S = scalar_t<T>;
  const Quaternion<T>& q = n.unit;
  const T two = n.inverse_norm * S(2);
  return {-(q.x * v.x + q.y * v.y + q.z * v.z) * two, (q.w * v.x + q.y * v.z - q.z * v.y) * two,
          (q.w * v.y - q.x * v.z + q.z * v.x) * two, (q.w * v.z + q.x * v.y - q.y * v.x) * two};
}

// Row vector times rotation matrix.
template <class T>
NS_HD Vec3<T> times(const Vec3<T>& u, const Rotation<T>& q) {
  return {u.x * q.row0.x + u.y * q.row1.x + u.z * q.row2.x, u.x * q.row0.y + u.y * q.row1.y + u.z * q.row2.y,
          u.x * q.row0.z + u.y * q.row1.z + u.z * q.row2.z};
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
