// SPDX-License-Identifier: Apache-2.0
// Real spherical harmonics up to degree 4 in the order (l, m) = (0,0), (1,-1), (1,0), (1,1), (2,-2), ...; the sign
// convention is that of 3DGS and gsplat: degree 1 is 0.4886 (-y, z, -x).
#pragma once
#include "vec.h"

namespace ns_diff3r {
namespace NS_ISA {

constexpr int kMaxShBases = 25;

// Calls f(k, Y_k(x, y, z), ∂Y_k/∂x, ∂Y_k/∂y, ∂Y_k/∂z) for k < num_bases, for a unit direction. The partial derivatives
// are those of the polynomial that is evaluated; the caller projects them on the sphere's tangent plane.
template <class T, class F>
NS_HD void for_each_sh_basis(int num_bases, const Vec3<T>& u, F&& f) {
  using S = scalar_t<T>;
  const T zero = T(S(0));
  const T x = u.x, y = u.y, z = u.z;
  f(0, T(S(0.28209479177387814)), zero, zero, zero);
  if (num_bases <= 1) return;
  {
    const S c(0.48860251190291987);
    f(1, y * -c, zero, T(-c), zero);
    f(2, z * c, zero, zero, T(c));
    f(3, x * -c, T(-c), zero, zero);
  }
  if (num_bases <= 4) return;
  const T xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  {
    const S a(1.0925484305920792), b(0.94617469575755997), d(0.31539156525251999), e(0.54627421529603959);
    f(4, xy * a, y * a, x * a, zero);
    f(5, yz * -a, zero, z * -a, y * -a);
    f(6, zz * b - d, zero, zero, z * (S(2) * b));
    f(7, xz * -a, z * -a, zero, x * -a);
    f(8, (xx - yy) * e, x * (S(2) * e), y * (S(-2) * e), zero);
  }
  if (num_bases <= 9) return;
  {
    const S a(-0.59004358992664352), b(2.8906114426405538), c(0.45704579946446572), d(0.37317633259011546),
        e(1.4453057213202769);
    const T q = S(1) - zz * S(5);
    f(9, y * (xx * S(3) - yy) * a, xy * (S(6) * a), (xx - yy) * (S(3) * a), zero);
    f(10, xy * z * b, yz * b, xz * b, xy * b);
    f(11, y * q * c, zero, q * c, yz * (S(-10) * c));
    f(12, z * (zz * S(5) - S(3)) * d, zero, zero, (zz * S(15) - S(3)) * d);
    f(13, x * q * c, q * c, zero, xz * (S(-10) * c));
    f(14, z * (xx - yy) * e, xz * (S(2) * e), yz * (S(-2) * e), (xx - yy) * e);
    f(15, x * (xx - yy * S(3)) * a, (xx - yy) * (S(3) * a), xy * (S(-6) * a), zero);
  }
  if (num_bases <= 16) return;
  {
    const S a(2.5033429417967046), b(-1.7701307697799304), c(0.94617469575756008), d(-0.66904654355728921),
        e(-0.47308734787878004), g(0.62583573544917614), h(0.10578554691520431);
    const T s = zz * S(7) - S(1);  // in (4, ±2)
    const T t = zz * S(7) - S(3);  // in (4, ±1)
    const T p = xx - yy;
    f(16, xy * p * a, y * (xx * S(3) - yy) * a, x * (xx - yy * S(3)) * a, zero);
    f(17, yz * (xx * S(3) - yy) * b, xy * z * (S(6) * b), z * p * (S(3) * b), y * (xx * S(3) - yy) * b);
    f(18, xy * s * c, y * s * c, x * s * c, xy * z * (S(14) * c));
    f(19, yz * t * d, zero, z * t * d, y * (zz * S(21) - S(3)) * d);
    f(20, (zz * (zz * S(35) - S(30)) + S(3)) * h, zero, zero, z * (zz * S(140) - S(60)) * h);
    f(21, xz * t * d, z * t * d, zero, x * (zz * S(21) - S(3)) * d);
    f(22, p * s * -e, x * s * (S(-2) * e), y * s * (S(2) * e), z * p * (S(-14) * e));
    f(23, xz * (xx - yy * S(3)) * b, z * p * (S(3) * b), xy * z * (S(-6) * b), x * (xx - yy * S(3)) * b);
    f(24, (xx * (xx - yy * S(3)) - yy * (xx * S(3) - yy)) * g, x * (xx - yy * S(3)) * (S(4) * g),
      y * (xx * S(3) - yy) * (S(-4) * g), zero);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
