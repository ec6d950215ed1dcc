// SPDX-License-Identifier: Apache-2.0
// Plan as a Python class. Arrays are raw addresses (tensor.data_ptr()) whose shapes and lifetimes the Python side checks.
#include "bind_rasterizer.h"

#include "../bind_arguments.h"
#include "plan.h"

namespace py = pybind11;

namespace ns_diff3r {
namespace {

template <class T, class U>
void bind_plan(py::module_& module, const char* name) {
  using P = Plan<T>;
  py::class_<P>(module, name)
      .def(py::init<>())
      .def("build",
           [](P& plan, const Addresses& params, int64_t num_gaussians, int num_sh_bases, const Matrices& viewmats,
              const Matrices& Ks, const Matrices& background, int width, int height, const py::dict& config, int threads) {
             auto cameras = cameras_from<T>(viewmats, Ks, width, height, config["clamp"].cast<std::string>() == "inria");
             std::vector<T> colors(background.data(), background.data() + background.size());
             const RasterizationConfig<T> c = config_from<T>(config);
             py::gil_scoped_release release;
             plan.build(inputs<T>(params), num_gaussians, num_sh_bases, std::move(cameras), std::move(colors), width,
                        height, c, threads);
           })
      .def("decide_as",
           [](P& plan, const Plan<U>& origin, const Addresses& params, const Matrices& viewmats, const Matrices& Ks,
              const Matrices& background, int width, int height, const py::dict& config, int threads) {
             auto cameras = cameras_from<T>(viewmats, Ks, width, height, config["clamp"].cast<std::string>() == "inria");
             std::vector<T> colors(background.data(), background.data() + background.size());
             const RasterizationConfig<T> c = config_from<T>(config);
             py::gil_scoped_release release;
             plan.decide_as(origin, inputs<T>(params), std::move(cameras), std::move(colors), c, threads);
           })
      .def("render",
           [](P& plan, uintptr_t rgb, uintptr_t alpha, uintptr_t depth, bool linearize, int threads) {
             plan.render({pointer<T>(rgb), pointer<T>(alpha), pointer<T>(depth)}, linearize, threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("rebase",
           [](P& plan, const P& origin, const Addresses& params, bool frozen, int threads) {
             plan.rebase(origin, inputs<T>(params), frozen, threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("reproject", &P::reproject, py::call_guard<py::gil_scoped_release>())
      .def("jvp",
           [](P& plan, const Addresses& tangents, uintptr_t out, int threads) {
             plan.jvp(inputs<T>(tangents), pointer<T>(out), threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("vjp",
           [](P& plan, uintptr_t rgb, uintptr_t alpha, uintptr_t depth_sum, const Addresses& out, uintptr_t camera_sums,
              int threads) {
             plan.vjp({pointer<const T>(rgb), pointer<const T>(alpha), pointer<const T>(depth_sum)}, outputs<T>(out),
                      pointer<double>(camera_sums), threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("gauss_newton",
           [](P& plan, const Addresses& tangents, uintptr_t weights, const Addresses& out, int threads) {
             plan.gauss_newton(inputs<T>(tangents), pointer<const T>(weights), outputs<T>(out), threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("blocks",
           [](P& plan, uintptr_t weights, const Addresses& diagonal, uintptr_t geometry, uintptr_t sh, int threads) {
             plan.blocks(pointer<const T>(weights), {outputs<T>(diagonal), pointer<T>(geometry), pointer<T>(sh)}, threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("vjp_tangent",
           [](P& plan, const Addresses& tangents, uintptr_t u, uintptr_t du, const Addresses& out, int threads) {
             plan.vjp_tangent(inputs<T>(tangents), pointer<const T>(u), pointer<const T>(du), outputs<T>(out), threads);
           },
           py::call_guard<py::gil_scoped_release>())
      .def("contributing", [](const P& plan, uintptr_t out) { plan.contributing(pointer<bool>(out)); })
      .def_property_readonly("num_records", &P::num_records)
      .def_property_readonly("num_intersections", &P::num_intersections)
      .def_property_readonly("num_candidates", &P::num_candidates)
      .def_property_readonly("num_active", &P::num_active)
      .def_property_readonly("num_pairs", &P::num_pairs);
}

}  // namespace

void bind_rasterizer(py::module_& module) {
  bind_plan<float, double>(module, "PlanFloat32");
  bind_plan<double, float>(module, "PlanFloat64");
  module.def("instruction_set", [] { return std::string(instruction_set().name); });
}

}  // namespace ns_diff3r
