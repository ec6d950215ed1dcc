// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "scalar.h"

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
struct Vec3 {
  T x, y, z;
};
template <class A, class B>
NS_HD auto dot(const Vec3<A>& a, const Vec3<B>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class A, class B>
NS_HD auto cross(const Vec3<A>& a, const Vec3<B>& b) {
  auto x = a.y * b.z - a.z * b.y;
  return Vec3<decltype(x)>{x, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <class T>
NS_HD Vec3<T> operator+(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class T>
NS_HD Vec3<T> operator-(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
// component by component
template <class A, class B>
NS_HD auto product(const Vec3<A>& a, const Vec3<B>& b) {
  return Vec3<decltype(a.x * b.x)>{a.x * b.x, a.y * b.y, a.z * b.z};
}
// times a number
template <class T, class S>
NS_HD Vec3<T> scaled(const Vec3<T>& a, const S& s) {
  return {a.x * s, a.y * s, a.z * s};
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
