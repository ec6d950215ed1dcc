// SPDX-License-Identifier: Apache-2.0
// Lanes<T>: sixteen numbers, the pixels of one 4x4 block or sixteen Gaussians, in as many registers as the instruction
// set this file is compiled for needs. Arithmetic is written with the vector extensions of GCC and Clang; masks and the
// square root use intrinsics where the extension has no good form.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../math/scalar.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define NS_SIMD_BYTES 64
#elif defined(__AVX2__)
#define NS_SIMD_BYTES 32
#else
#define NS_SIMD_BYTES 16
#endif

namespace ns_diff3r {
namespace NS_ISA {

constexpr int kLanes = 16;

template <class T>
struct LaneTraits;
template <>
struct LaneTraits<float> {
  using Int = int32_t;
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low mantissa bits
  static constexpr float lowest_exponent = -126.0f;
};
template <>
struct LaneTraits<double> {
  using Int = int64_t;
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr double round_magic = 6755399441055744.0;
  static constexpr double lowest_exponent = -1022.0;
};

// ---- masks ---------------------------------------------------------------------------------------------------------

#if NS_SIMD_BYTES == 64
template <class T>
struct Mask {
  uint32_t bits;
  NS_HD Mask() {}
  NS_HD explicit Mask(uint32_t b) : bits(b) {}
  NS_HD static Mask from_bits(uint32_t b) { return Mask(b); }
  NS_HD uint32_t to_bits() const { return bits; }
  NS_HD friend Mask operator&(Mask a, Mask b) { return Mask(a.bits & b.bits); }
  NS_HD friend Mask operator|(Mask a, Mask b) { return Mask(a.bits | b.bits); }
  NS_HD friend Mask operator!(Mask a) { return Mask(~a.bits & 0xffffu); }
};
#else
template <class T>
struct Mask {
  using Int = typename LaneTraits<T>::Int;
  static constexpr int width = NS_SIMD_BYTES / sizeof(T), registers = kLanes / width;
  typedef Int Register __attribute__((vector_size(NS_SIMD_BYTES)));
  Register r[registers];

  NS_HD Mask() {}
  NS_HD static Mask from_bits(uint32_t b) {
    Mask m;
    for (int i = 0; i < registers; ++i) {
      Register bit;
      for (int l = 0; l < width; ++l) bit[l] = Int(1) << (i * width + l);
      m.r[i] = ((Int(b) & bit) != 0);
    }
    return m;
  }
  NS_HD uint32_t to_bits() const {
    uint32_t b = 0;
    for (int i = 0; i < registers; ++i) {
#if NS_SIMD_BYTES == 32
      if (sizeof(T) == 4)
        b |= uint32_t(_mm256_movemask_ps((__m256)r[i])) << (i * width);
      else
        b |= uint32_t(_mm256_movemask_pd((__m256d)r[i])) << (i * width);
#elif defined(__SSE2__)
      if (sizeof(T) == 4)
        b |= uint32_t(_mm_movemask_ps((__m128)r[i])) << (i * width);
      else
        b |= uint32_t(_mm_movemask_pd((__m128d)r[i])) << (i * width);
#else
      for (int l = 0; l < width; ++l) b |= (r[i][l] != 0 ? 1u : 0u) << (i * width + l);
#endif
    }
    return b;
  }
  NS_HD friend Mask operator&(Mask a, const Mask& b) {
    for (int i = 0; i < registers; ++i) a.r[i] &= b.r[i];
    return a;
  }
  NS_HD friend Mask operator|(Mask a, const Mask& b) {
    for (int i = 0; i < registers; ++i) a.r[i] |= b.r[i];
    return a;
  }
  NS_HD friend Mask operator!(Mask a) {
    for (int i = 0; i < registers; ++i) a.r[i] = ~a.r[i];
    return a;
  }
};
#endif

template <class T>
NS_HD bool any(const Mask<T>& m) {
  return m.to_bits() != 0;
}

// ---- numbers -------------------------------------------------------------------------------------------------------

template <class T>
struct alignas(NS_SIMD_BYTES) Lanes {
  static constexpr int width = NS_SIMD_BYTES / sizeof(T), registers = kLanes / width;
  typedef T Register __attribute__((vector_size(NS_SIMD_BYTES)));
  Register r[registers];

  NS_HD Lanes() {}
  NS_HD Lanes(T x) {
    // x - 0 is x for every x, so that this is one broadcast; 0 + x is not (x = -0), and would cost an addition
    for (int i = 0; i < registers; ++i) r[i] = x - Register{};
  }
  NS_HD static Lanes load(const T* p) {
    Lanes x;
    // Register by register: GCC copies the whole array through the stack in 16-byte pieces, a stall on AVX2.
    for (int i = 0; i < registers; ++i) std::memcpy(&x.r[i], p + i * width, sizeof(Register));
    return x;
  }
  NS_HD void store(T* p) const {
    for (int i = 0; i < registers; ++i) std::memcpy(p + i * width, &r[i], sizeof(Register));
  }
  NS_HD T operator[](int i) const { return r[i / width][i % width]; }

#define NS_LANES_BINARY(op)                                       \
  NS_HD friend Lanes operator op(Lanes a, const Lanes& b) {       \
    for (int i = 0; i < registers; ++i) a.r[i] = a.r[i] op b.r[i]; \
    return a;                                                     \
  }
  NS_LANES_BINARY(+)
  NS_LANES_BINARY(-)
  NS_LANES_BINARY(*)
  NS_LANES_BINARY(/)
#undef NS_LANES_BINARY
  NS_HD friend Lanes operator-(Lanes a) {
    for (int i = 0; i < registers; ++i) a.r[i] = -a.r[i];
    return a;
  }
  NS_HD Lanes& operator+=(const Lanes& b) { return *this = *this + b; }
  NS_HD Lanes& operator-=(const Lanes& b) { return *this = *this - b; }
  NS_HD Lanes& operator*=(const Lanes& b) { return *this = *this * b; }

#if NS_SIMD_BYTES == 64
#define NS_LANES_COMPARE(op, predicate)                                                                          \
  NS_HD friend Mask<T> operator op(const Lanes& a, const Lanes& b) {                                             \
    if constexpr (sizeof(T) == 4)                                                                                \
      return Mask<T>(_mm512_cmp_ps_mask((__m512)a.r[0], (__m512)b.r[0], predicate));                             \
    else                                                                                                         \
      return Mask<T>(uint32_t(_mm512_cmp_pd_mask((__m512d)a.r[0], (__m512d)b.r[0], predicate)) |                 \
                     uint32_t(_mm512_cmp_pd_mask((__m512d)a.r[registers - 1], (__m512d)b.r[registers - 1], predicate)) << 8); \
  }
#else
#define NS_LANES_COMPARE(op, predicate)                                    \
  NS_HD friend Mask<T> operator op(const Lanes& a, const Lanes& b) {       \
    Mask<T> m;                                                             \
    for (int i = 0; i < registers; ++i) m.r[i] = a.r[i] op b.r[i];         \
    return m;                                                              \
  }
#endif
  NS_LANES_COMPARE(<, _CMP_LT_OQ)
  NS_LANES_COMPARE(<=, _CMP_LE_OQ)
  NS_LANES_COMPARE(>, _CMP_GT_OQ)
  NS_LANES_COMPARE(>=, _CMP_GE_OQ)
#undef NS_LANES_COMPARE
};

template <class T>
struct scalar_of<Lanes<T>> {
  using type = T;
};
template <class T>
struct mask_of<Lanes<T>> {
  using type = Mask<T>;
};
template <class T>
NS_HD Lanes<T> value_of(const Lanes<T>& x) {
  return x;
}

template <class T>
NS_HD Lanes<T> select(const Mask<T>& m, const Lanes<T>& a, const Lanes<T>& b) {
  Lanes<T> x;
#if NS_SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    x.r[0] = (typename Lanes<T>::Register)_mm512_mask_blend_ps(__mmask16(m.bits), (__m512)b.r[0], (__m512)a.r[0]);
  } else {
    for (int i = 0; i < 2; ++i)
      x.r[i] = (typename Lanes<T>::Register)_mm512_mask_blend_pd(__mmask8(m.bits >> (8 * i)), (__m512d)b.r[i],
                                                                 (__m512d)a.r[i]);
  }
#else
  for (int i = 0; i < Lanes<T>::registers; ++i) x.r[i] = m.r[i] ? a.r[i] : b.r[i];
#endif
  return x;
}
// a where the mask holds, 0 elsewhere
template <class T>
NS_HD Lanes<T> keep(const Mask<T>& m, const Lanes<T>& a) {
  return select(m, a, Lanes<T>(T(0)));
}
template <class T>
NS_HD Lanes<T> min(const Lanes<T>& a, const Lanes<T>& b) {
  return select(a < b, a, b);
}
template <class T>
NS_HD Lanes<T> max(const Lanes<T>& a, const Lanes<T>& b) {
  return select(a > b, a, b);
}

// c - a b, as one operation where there is one. Elsewhere the compiler fuses by itself, but not what it also needs alone.
template <class T>
NS_HD Lanes<T> subtract_product(const Lanes<T>& c, const Lanes<T>& a, const Lanes<T>& b) {
  Lanes<T> x;
  using R = typename Lanes<T>::Register;
  for (int i = 0; i < Lanes<T>::registers; ++i) {
#if NS_SIMD_BYTES == 64
    if constexpr (sizeof(T) == 4)
      x.r[i] = (R)_mm512_fnmadd_ps((__m512)a.r[i], (__m512)b.r[i], (__m512)c.r[i]);
    else
      x.r[i] = (R)_mm512_fnmadd_pd((__m512d)a.r[i], (__m512d)b.r[i], (__m512d)c.r[i]);
#elif NS_SIMD_BYTES == 32
    if constexpr (sizeof(T) == 4)
      x.r[i] = (R)_mm256_fnmadd_ps((__m256)a.r[i], (__m256)b.r[i], (__m256)c.r[i]);
    else
      x.r[i] = (R)_mm256_fnmadd_pd((__m256d)a.r[i], (__m256d)b.r[i], (__m256d)c.r[i]);
#else
    x.r[i] = R(c.r[i] - a.r[i] * b.r[i]);
#endif
  }
  return x;
}

template <class T>
NS_HD Lanes<T> sqrt(const Lanes<T>& a) {
  Lanes<T> x;
  for (int i = 0; i < Lanes<T>::registers; ++i) {
#if NS_SIMD_BYTES == 64
    if constexpr (sizeof(T) == 4)
      x.r[i] = (typename Lanes<T>::Register)_mm512_sqrt_ps((__m512)a.r[i]);
    else
      x.r[i] = (typename Lanes<T>::Register)_mm512_sqrt_pd((__m512d)a.r[i]);
#elif NS_SIMD_BYTES == 32
    if constexpr (sizeof(T) == 4)
      x.r[i] = (typename Lanes<T>::Register)_mm256_sqrt_ps((__m256)a.r[i]);
    else
      x.r[i] = (typename Lanes<T>::Register)_mm256_sqrt_pd((__m256d)a.r[i]);
#else
    for (int l = 0; l < Lanes<T>::width; ++l) x.r[i][l] = std::sqrt(a.r[i][l]);
#endif
  }
  return x;
}

// 2^r for |r| <= 1/2: the Taylor series of exp(r ln 2), to the last bit or two of T. By pairs (Estrin), not nested:
// the nested form's chain of seven (thirteen) dependent products held up every loop it is part of.
NS_HD Lanes<float> exp2_fraction(const Lanes<float>& r) {
  using L = Lanes<float>;
  const L r2 = r * r;
  const L p01 = r * L(6.9314718055994531e-1f) + L(1.0f), p23 = r * L(5.5504108664821580e-2f) + L(2.4022650695910071e-1f);
  const L p45 = r * L(1.3333558146428443e-3f) + L(9.6181291076284772e-3f);
  const L low = p23 * r2 + p01, high = r2 * L(1.5403530393381610e-4f) + p45;
  return high * (r2 * r2) + low;
}
NS_HD Lanes<double> exp2_fraction(const Lanes<double>& r) {
  using L = Lanes<double>;
  const L r2 = r * r, r4 = r2 * r2;
  const L p01 = r * L(6.9314718055994531e-1) + L(1.0), p23 = r * L(5.5504108664821580e-2) + L(2.4022650695910071e-1);
  const L p45 = r * L(1.3333558146428443e-3) + L(9.6181291076284772e-3);
  const L p67 = r * L(1.5252733804059841e-5) + L(1.5403530393381610e-4);
  const L p89 = r * L(1.0178086009239699e-7) + L(1.3215486790144309e-6);
  const L p1011 = r * L(4.4455382718708121e-10) + L(7.0549116208011234e-9);
  const L p1213 = r * L(1.3691488853904129e-12) + L(2.5678435993488206e-11);
  const L low = (p67 * r2 + p45) * r4 + (p23 * r2 + p01), high = p1213 * r4 + (p1011 * r2 + p89);
  return high * (r4 * r4) + low;
}
// y * 2^n, where `shifted` is n + round_magic; in unsigned numbers, which may wrap in lanes that hold garbage
template <class T>
NS_HD Lanes<T> scale_by_power(const Lanes<T>& y, const Lanes<T>& shifted) {
  typedef typename LaneTraits<T>::Bits Bits;
  typedef Bits BitsRegister __attribute__((vector_size(NS_SIMD_BYTES)));
  Lanes<T> x;
  for (int i = 0; i < Lanes<T>::registers; ++i)
    x.r[i] = (typename Lanes<T>::Register)((BitsRegister)y.r[i] + ((BitsRegister)shifted.r[i] << LaneTraits<T>::mantissa_bits));
  return x;
}
template <class T>
NS_HD Lanes<T> exp2(const Lanes<T>& x) {
  const Lanes<T> magic(LaneTraits<T>::round_magic);
  const Lanes<T> clamped = max(x, Lanes<T>(LaneTraits<T>::lowest_exponent));
  const Lanes<T> shifted = clamped + magic;
  return scale_by_power(exp2_fraction(clamped - (shifted - magic)), shifted);
}
// 2^x for x in the range of normal numbers; anything else gives garbage, for lanes that are masked afterwards
template <class T>
NS_HD Lanes<T> exp2_in_range(const Lanes<T>& x) {
  const Lanes<T> magic(LaneTraits<T>::round_magic);
  const Lanes<T> shifted = x + magic;
  return scale_by_power(exp2_fraction(x - (shifted - magic)), shifted);
}
// e^x; the product x log2(e) is carried in two parts, since its rounding error grows with |x|. Overflows to inf.
template <class T>
NS_HD Lanes<T> exp(const Lanes<T>& x) {
  const bool single = sizeof(T) == 4;
  const T high = single ? T(1.44269502162933349609375) : T(1.4426950408889634);
  const T low = single ? T(1.9259629911266175e-8) : T(2.0355273740931033e-17);
  const Lanes<T> magic(LaneTraits<T>::round_magic);
  const T ln2 = T(0.693147180559945309417);
  const Lanes<T> upper(-(LaneTraits<T>::lowest_exponent - 1) * ln2);
  const Lanes<T> clamped = min(max(x, Lanes<T>(LaneTraits<T>::lowest_exponent * ln2)), upper);
  const Lanes<T> shifted = clamped * Lanes<T>(high) + magic;
  const Lanes<T> n = shifted - magic;
  const Lanes<T> fraction = (clamped * Lanes<T>(high) - n) + clamped * Lanes<T>(low);
  return scale_by_power(exp2_fraction(fraction), shifted);
}

// Numbers of two registers in any order.
template <class R, class I>
NS_HD R shuffle_pair(const R& a, const R& b, const I& index) {
#if defined(__clang__)
  constexpr int n = sizeof(R) / sizeof(a[0]);
  R x;
  for (int i = 0; i < n; ++i) x[i] = index[i] < n ? a[index[i]] : b[index[i] - n];
  return x;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

}  // namespace NS_ISA
}  // namespace ns_diff3r
