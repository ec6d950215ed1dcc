// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace ns_diff3r {

#define NS_DECLARE(isa)                                \
  extern const Kernels<float>* const kernels_float_##isa; \
  extern const Kernels<double>* const kernels_double_##isa;

NS_DECLARE(baseline)
#ifdef NS_HAVE_X86_SETS
NS_DECLARE(avx2)
NS_DECLARE(avx512)
#endif

namespace {

InstructionSet choose() {
  const char* wanted = std::getenv("NS_DIFF3R_ISA");
  const auto allowed = [&](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#ifdef NS_HAVE_X86_SETS
  __builtin_cpu_init();
  if (allowed("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return {"avx512", kernels_float_avx512, kernels_double_avx512};
  if (allowed("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {"avx2", kernels_float_avx2, kernels_double_avx2};
#endif
  if (allowed("baseline")) return {"baseline", kernels_float_baseline, kernels_double_baseline};
  throw std::runtime_error(std::string("NS_DIFF3R_ISA=") + wanted +
                           " is not an instruction set of this build and processor; known are baseline, avx2, avx512");
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}
template <>
const Kernels<float>& kernels<float>() {
  return *instruction_set().single_precision;
}
template <>
const Kernels<double>& kernels<double>() {
  return *instruction_set().double_precision;
}

}  // namespace ns_diff3r
