// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "kernels.h"
#include "solver_kernels.h"

namespace ns_diff3r {

#define NS_DECLARE(isa)                                                \
  extern const SolverKernels<float>* const solver_kernels_float_##isa; \
  extern const SolverKernels<double>* const solver_kernels_double_##isa;
#define NS_CHOOSE(scalar)                                                         \
  const auto chosen = [](const char* name) {                                      \
    return std::strcmp(instruction_set().name, name) == 0;                        \
  };                                                                              \
  NS_CHOOSE_X86(scalar)                                                           \
  (void)chosen;                                                                   \
  return *solver_kernels_##scalar##_baseline;

NS_DECLARE(baseline)
#ifdef NS_HAVE_X86_SETS
NS_DECLARE(avx2)
NS_DECLARE(avx512)
#define NS_CHOOSE_X86(scalar)                                    \
  if (chosen("avx512")) return *solver_kernels_##scalar##_avx512; \
  if (chosen("avx2")) return *solver_kernels_##scalar##_avx2;
#else
#define NS_CHOOSE_X86(scalar)
#endif

template <>
const SolverKernels<float>& solver_kernels<float>() {
  NS_CHOOSE(float)
}
template <>
const SolverKernels<double>& solver_kernels<double>() {
  NS_CHOOSE(double)
}

}  // namespace ns_diff3r
