// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "scalar.h"

namespace ns_diff3r {
namespace NS_ISA {

// First-order dual number v + d ε, ε² = 0. The value part of a function of duals is bit for bit its plain value.
template <class T>
struct Dual {
  T v, d;

  NS_HD Dual() {}
  NS_HD Dual(const T& value) : v(value), d(scalar_t<T>(0)) {}
  NS_HD Dual(scalar_t<T> value, int) : v(value), d(scalar_t<T>(0)) {}
  NS_HD Dual(const T& value, const T& tangent) : v(value), d(tangent) {}

  NS_HD friend Dual operator+(const Dual& a, const Dual& b) { return Dual(a.v + b.v, a.d + b.d); }
  NS_HD friend Dual operator+(const Dual& a, const T& b) { return Dual(a.v + b, a.d); }
  NS_HD friend Dual operator+(const T& a, const Dual& b) { return Dual(a + b.v, b.d); }
  NS_HD friend Dual operator-(const Dual& a, const Dual& b) { return Dual(a.v - b.v, a.d - b.d); }
  NS_HD friend Dual operator-(const Dual& a, const T& b) { return Dual(a.v - b, a.d); }
  NS_HD friend Dual operator-(const T& a, const Dual& b) { return Dual(a - b.v, -b.d); }
  NS_HD friend Dual operator-(const Dual& a) { return Dual(-a.v, -a.d); }
  NS_HD friend Dual operator*(const Dual& a, const Dual& b) { return Dual(a.v * b.v, a.v * b.d + a.d * b.v); }
  NS_HD friend Dual operator*(const Dual& a, const T& b) { return Dual(a.v * b, a.d * b); }
  NS_HD friend Dual operator*(const T& a, const Dual& b) { return Dual(a * b.v, a * b.d); }
  NS_HD friend Dual operator/(const Dual& a, const Dual& b) {
    const T q = a.v / b.v;
    return Dual(q, (a.d - q * b.d) / b.v);
  }
  NS_HD friend Dual operator/(const Dual& a, const T& b) { return Dual(a.v / b, a.d / b); }
  NS_HD friend Dual operator/(const T& a, const Dual& b) {
    const T q = a / b.v;
    return Dual(q, -q * b.d / b.v);
  }
  NS_HD Dual& operator+=(const Dual& b) { return *this = *this + b; }
  NS_HD Dual& operator-=(const Dual& b) { return *this = *this - b; }
  NS_HD Dual& operator*=(const Dual& b) { return *this = *this * b; }
};

template <class T>
struct scalar_of<Dual<T>> {
  using type = scalar_t<T>;
};
template <class T>
struct mask_of<Dual<T>> {
  using type = mask_t<T>;
};

template <class T>
NS_HD T value_of(const Dual<T>& x) {
  return x.v;
}
template <class T>
NS_HD Dual<T> select(const mask_t<T>& m, const Dual<T>& a, const Dual<T>& b) {
  return Dual<T>(select(m, a.v, b.v), select(m, a.d, b.d));
}
template <class T>
NS_HD Dual<T> exp(const Dual<T>& x) {
  const T e = exp(x.v);
  return Dual<T>(e, e * x.d);
}
template <class T>
NS_HD Dual<T> exp2(const Dual<T>& x) {
  const T e = exp2(x.v);
  return Dual<T>(e, e * x.d * scalar_t<T>(0.693147180559945309417));
}
// The derivative at 0 is taken as 0: the callers' functions have a clamp or a zero factor there.
template <class T>
NS_HD Dual<T> sqrt(const Dual<T>& x) {
  const T s = sqrt(x.v);
  const T zero = T(scalar_t<T>(0));
  return Dual<T>(s, select(s > zero, x.d * scalar_t<T>(0.5) / s, zero));
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
