// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <pybind11/pybind11.h>

namespace ns_diff3r {

void bind_rasterizer(pybind11::module_& module);

}  // namespace ns_diff3r
