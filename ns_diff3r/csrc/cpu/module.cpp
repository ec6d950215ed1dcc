// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bind_rasterizer.h"
#include "bind_solver.h"

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "ns-diff3r's CPU kernels; addresses in, nothing kept: see ns_diff3r.extension";
  ns_diff3r::bind_rasterizer(module);
  ns_diff3r::bind_solver(module);
}
