// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "solver.h"

namespace ns_diff3r {
namespace cuda {

using Address = uintptr_t;
using Range = std::tuple<int64_t, int64_t, double, bool>;  // begin, end, learning rate, frozen

Ranges ranges_from(const std::vector<Range>& list);
StepKind step_kind(const std::string& name);
// What Adam divides its moments by in step `number`, counted from 1, as factors.
std::pair<double, double> adam_corrections(double beta1, double beta2, int64_t number);

void bind_solver(pybind11::module_& module);
void bind_run(pybind11::module_& module);

}  // namespace cuda
}  // namespace ns_diff3r
