// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set and precision, as kernels_isa.cpp and under the same rule: nothing of the standard
// library's templates.
#include "image_kernels.h"
#include "small_blocks_kernels.h"
#include "solver_kernels.h"
#include "vector_kernels.h"

#define NS_CONCATENATE_(a, b) a##b
#define NS_CONCATENATE(a, b) NS_CONCATENATE_(a, b)

namespace ns_diff3r {
namespace NS_ISA {

template <class T>
constexpr SolverKernels<T> make_solver_kernels() {
  return {dot<T>,
          sum<T>,
          axpy<T>,
          xpby<T>,
          scale_add_diagonal<T>,
          cg_update<T>,
          multiply<T>,
          add_prior<T>,
          adam<T>,
          invert_blocks<T>,
          apply_blocks<T>,
          filter_row<T>,
          ssim_target_row<T>,
          ssim_value_row<T>,
          ssim_vjp_row<T>,
          ssim_jvp_row<T>,
          ssim_partials_jvp_row<T>,
          pixel_loss<T>};
}

constexpr SolverKernels<NS_SCALAR> solver_table = make_solver_kernels<NS_SCALAR>();

}  // namespace NS_ISA

#define NS_SOLVER_TABLE NS_CONCATENATE(NS_CONCATENATE(solver_kernels_, NS_SCALAR), NS_CONCATENATE(_, NS_ISA))
extern const SolverKernels<NS_SCALAR>* const NS_SOLVER_TABLE;
const SolverKernels<NS_SCALAR>* const NS_SOLVER_TABLE = &NS_ISA::solver_table;

}  // namespace ns_diff3r
