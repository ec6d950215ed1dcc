// SPDX-License-Identifier: Apache-2.0
// Qualifiers (NS_HD_LARGE: functions that the CPU calls rather than inlines, for the compiler's sake; a call is nothing
// beside their work) and the elementary functions every header of math/ is written in. A header is a set of templates over a
// value type T: float or double (a CUDA thread), Lanes<float|double> (sixteen of them, cpu/simd.h), or Dual<T> over any
// of these (forward mode). Branches are masks: comparisons give bool or Mask, select(mask, a, b) chooses.
#pragma once
#include <cmath>

#if defined(__CUDACC__)
#define NS_HD __host__ __device__ __forceinline__
#define NS_HD_LARGE __host__ __device__ inline
#else
#define NS_HD inline __attribute__((always_inline))
#define NS_HD_LARGE inline
#endif

// CPU kernels are compiled once per instruction set; the namespace keeps their inline functions apart for the linker.
#ifndef NS_ISA
#define NS_ISA generic
#endif

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
struct scalar_of {
  using type = T;
};
template <class T>
using scalar_t = typename scalar_of<T>::type;

template <class T>
struct mask_of {
  using type = bool;
};
template <class T>
using mask_t = typename mask_of<T>::type;

NS_HD float select(bool m, float a, float b) { return m ? a : b; }
NS_HD double select(bool m, double a, double b) { return m ? a : b; }
NS_HD float sqrt(float x) { return ::sqrtf(x); }
NS_HD double sqrt(double x) { return ::sqrt(x); }
NS_HD float exp(float x) { return ::expf(x); }
NS_HD double exp(double x) { return ::exp(x); }
NS_HD float exp2(float x) { return ::exp2f(x); }
NS_HD double exp2(double x) { return ::exp2(x); }
NS_HD float value_of(float x) { return x; }
NS_HD double value_of(double x) { return x; }

}  // namespace NS_ISA
}  // namespace ns_diff3r
