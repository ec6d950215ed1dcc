// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <pybind11/pybind11.h>

namespace ns_diff3r {

// Adds the solver's native loops to the module.
void bind_solver(pybind11::module_& m);

}  // namespace ns_diff3r
