// SPDX-License-Identifier: Apache-2.0
// One tile of sixteen small systems, lane-innermost: element (row, column) of the packed lower triangle of lane l is
// tile[packed(row, column) · kCholeskyLanes + l].
#pragma once
#include "simd.h"
#include "small_cholesky.h"

namespace ns_diff3r {
namespace NS_ISA {

static_assert(kCholeskyLanes == kLanes, "a tile is one Lanes<T> wide");

template <class T>
struct UnitRoundoff;
template <>
struct UnitRoundoff<float> {
  static constexpr float value = 1.1920929e-7f;
};
template <>
struct UnitRoundoff<double> {
  static constexpr double value = 2.220446049250313e-16;
};

NS_HD int packed(int row, int column) { return (row * (row + 1) / 2 + column) * kLanes; }

// Lower triangle → L with the reciprocal of its diagonal, in place. A pivot that is not above rounding is replaced by the
// row's original diagonal element (by 1 where that is not positive): M stays positive definite, the row becomes a Jacobi
// row. Returns the number of replacements in the first `lanes` lanes.
template <class T>
int64_t cholesky_factor(int size, T* tile, int lanes) {
  using V = Lanes<T>;
  const V zero(T(0)), one(T(1));
  int64_t replaced = 0;
  for (int j = 0; j < size; ++j) {
    const V original = V::load(tile + packed(j, j));
    V pivot = original;
    for (int k = 0; k < j; ++k) {
      const V x = V::load(tile + packed(j, k));
      pivot -= x * x;
    }
    const auto sound = (original > zero) & (pivot > original * V(T(8) * T(size) * UnitRoundoff<T>::value));
    replaced += __builtin_popcount(~sound.to_bits() & ((1u << lanes) - 1));
    const V reciprocal = one / sqrt(select(sound, pivot, select(original > zero, original, one)));
    reciprocal.store(tile + packed(j, j));
    for (int i = j + 1; i < size; ++i) {
      V value = V::load(tile + packed(i, j));
      for (int k = 0; k < j; ++k) value -= V::load(tile + packed(i, k)) * V::load(tile + packed(j, k));
      (value * reciprocal).store(tile + packed(i, j));
    }
  }
  return replaced;
}

// x = (L Lᵀ)⁻¹ right; right and x [size, lanes].
template <class T>
void cholesky_solve(int size, const T* tile, const T* right, T* x) {
  using V = Lanes<T>;
  for (int i = 0; i < size; ++i) {
    V value = V::load(right + i * kLanes);
    for (int k = 0; k < i; ++k) value -= V::load(tile + packed(i, k)) * V::load(x + k * kLanes);
    (value * V::load(tile + packed(i, i))).store(x + i * kLanes);
  }
  for (int i = size - 1; i >= 0; --i) {
    V value = V::load(x + i * kLanes);
    for (int k = i + 1; k < size; ++k) value -= V::load(tile + packed(k, i)) * V::load(x + k * kLanes);
    (value * V::load(tile + packed(i, i))).store(x + i * kLanes);
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
