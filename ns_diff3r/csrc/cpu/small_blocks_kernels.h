// SPDX-License-Identifier: Apache-2.0
// One tile of sixteen small symmetric matrices, lane-innermost; see small_blocks.h.
#pragma once
#include "simd.h"
#include "small_blocks.h"

namespace ns_diff3r {
namespace NS_ISA {

static_assert(kBlockLanes == kLanes, "a tile is one Lanes<T> wide");

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

constexpr int kMaxSweeps = 12;  // cyclic Jacobi converges quadratically: about six

// (p, q) ← (c·p − s·q, s·p + c·q)
template <class T>
NS_HD void rotate(T* p, T* q, const Lanes<T>& c, const Lanes<T>& s) {
  const Lanes<T> x = Lanes<T>::load(p), y = Lanes<T>::load(q);
  (c * x - s * y).store(p);
  (s * x + c * y).store(q);
}

// a [size, size] → its eigenvalues on the diagonal; v [size, size] → the eigenvectors, row k belonging to a(k, k).
template <class T>
NS_HD void diagonalize(int size, T* a, T* v) {
  using V = Lanes<T>;
  const V zero(T(0)), one(T(1)), two(T(2));
  const auto at = [size](T* m, int i, int j) { return m + (i * size + j) * kLanes; };
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j) V(T(i == j)).store(at(v, i, j));
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    V outside = zero, trace = zero;
    for (int i = 0; i < size; ++i) {
      trace += V::load(at(a, i, i));
      for (int j = 0; j < i; ++j) {
        const V x = V::load(at(a, i, j));
        outside += x * x;
      }
    }
    const T rounding = T(0.5) * UnitRoundoff<T>::value;
    if (!any(outside > V(rounding * rounding) * trace * trace)) return;
    for (int p = 0; p < size; ++p) {
      for (int q = p + 1; q < size; ++q) {
        const V app = V::load(at(a, p, p)), aqq = V::load(at(a, q, q)), apq = V::load(at(a, p, q));
        // The smaller of the two rotations that make a(p, q) vanish.
        const auto needed = (apq > zero) | (apq < zero);
        const V cotangent = (aqq - app) / select(needed, two * apq, one);
        const V magnitude = one / (max(cotangent, -cotangent) + sqrt(cotangent * cotangent + one));
        const V t = keep(needed, select(cotangent < zero, -magnitude, magnitude));
        const V c = one / sqrt(t * t + one), s = t * c;
        for (int k = 0; k < size; ++k) rotate(at(a, p, k), at(a, q, k), c, s);
        for (int k = 0; k < size; ++k) {
          if (k == p || k == q) continue;
          V::load(at(a, p, k)).store(at(a, k, p));  // symmetric: the columns are the rows
          V::load(at(a, q, k)).store(at(a, k, q));
        }
        (app - t * apq).store(at(a, p, p));
        (aqq + t * apq).store(at(a, q, q));
        zero.store(at(a, p, q));
        zero.store(at(a, q, p));
        for (int k = 0; k < size; ++k) rotate(at(v, p, k), at(v, q, k), c, s);
      }
    }
  }
}

// The packed M⁻¹ = S V diag(f(b)) Vᵀ S of one tile from S (scaling) and S B S (matrix, destroyed).
template <class T>
int64_t invert_blocks(int size, bool with_prior, bool square_root, int lanes, T* matrix, T* vectors, const T* scaling,
                      T* inverse) {
  using V = Lanes<T>;
  const V one(T(1)), tolerance(T(8) * T(size) * UnitRoundoff<T>::value);
  const auto at = [size](T* m, int i, int j) { return m + (i * size + j) * kLanes; };
  V trace(T(0));
  for (int k = 0; k < size; ++k) trace += V::load(at(matrix, k, k));
  diagonalize(size, matrix, vectors);
  int64_t clamped = 0;
  for (int k = 0; k < size; ++k) {
    V b = V::load(at(matrix, k, k));
    const auto useless = with_prior ? b < -(tolerance * trace) : !(b > tolerance * trace);
    clamped += __builtin_popcount(useless.to_bits() & ((1u << lanes) - 1));
    b = with_prior ? max(b, V(T(0))) + one : select(useless, one, b);
    const V f = one / (square_root ? sqrt(b) : b);
    sqrt(f).store(at(matrix, k, k));
  }
  // Rows of Vᵀ scaled by sqrt(f); M⁻¹ is a sum of their outer products, hence symmetric and not indefinite.
  for (int k = 0; k < size; ++k) {
    const V root = V::load(at(matrix, k, k));
    for (int i = 0; i < size; ++i)
      (V::load(at(vectors, k, i)) * root * V::load(scaling + i * kLanes)).store(at(vectors, k, i));
  }
  for (int i = 0; i < size; ++i)
    for (int j = 0; j <= i; ++j, inverse += kLanes) {
      V sum(T(0));
      for (int k = 0; k < size; ++k) sum += V::load(at(vectors, k, i)) * V::load(at(vectors, k, j));
      sum.store(inverse);
    }
  return clamped;
}

// x = M⁻¹ right; right and x [size, lanes].
template <class T>
void apply_blocks(int size, const T* inverse, const T* right, T* x) {
  using V = Lanes<T>;
  for (int i = 0; i < size; ++i) {
    const V r = V::load(right + i * kLanes);
    V sum(T(0));
    for (int j = 0; j < i; ++j, inverse += kLanes) {
      const V element = V::load(inverse);
      sum += element * V::load(right + j * kLanes);
      (V::load(x + j * kLanes) + element * r).store(x + j * kLanes);
    }
    (sum + V::load(inverse) * r).store(x + i * kLanes);
    inverse += kLanes;
  }
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
