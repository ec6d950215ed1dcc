// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set and precision: NS_ISA names the set (and the namespace), NS_SCALAR is float or double,
// and the compiler's flags enable the set.
// Nothing from the standard library's templates is used in these kernels: a copy compiled for a newer processor could
// otherwise be the one that the linker keeps for all.
#include "block_kernels.h"
#include "moment_kernels.h"
#include "tangent_kernels.h"

#define NS_CONCATENATE_(a, b) a##b
#define NS_CONCATENATE(a, b) NS_CONCATENATE_(a, b)

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
constexpr Kernels<T> make_kernels() {
  return {project_chunk<T>,
          reproject_chunk<T>,
          block_masks_tile<T>,
          render_tile<T, false>,
          render_tile<T, true>,
          render_frozen_tile<T>,
          jvp_chunk<T>,
          jvp_tile<T>,
          vjp_tile<T>,
          gauss_newton_tile<T>,
          vjp_chunk<T>,
          moments_tile<T>,
          blocks_chunk<T>,
          vjp_tangent_tile<T>,
          vjp_tangent_chunk<T>,
          sizeof(SweepPair<T>),
          sizeof(DualSweepPair<T>)};
}

constexpr Kernels<NS_SCALAR> table = make_kernels<NS_SCALAR>();

}  // namespace NS_ISA

#define NS_TABLE NS_CONCATENATE(NS_CONCATENATE(kernels_, NS_SCALAR), NS_CONCATENATE(_, NS_ISA))
extern const Kernels<NS_SCALAR>* const NS_TABLE;
const Kernels<NS_SCALAR>* const NS_TABLE = &NS_ISA::table;

}  // namespace ns_diff3r
