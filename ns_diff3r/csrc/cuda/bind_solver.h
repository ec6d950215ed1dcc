// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <pybind11/pybind11.h>

namespace ns_diff3r {
namespace cuda {

void bind_solver(pybind11::module_& module);

}  // namespace cuda
}  // namespace ns_diff3r
