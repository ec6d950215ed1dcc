// SPDX-License-Identifier: Apache-2.0
// The Python modules _cuda (kernels on a device) and _cuda_host (the same kernels, run by host_block.h). Memory is the
// caller's; launches do not wait, so Python's lock is kept.

#include <cstring>
#include <utility>

#include "bind_solver.h"
#include "plan.h"
#include "rasterizer.h"
#if defined(NS_ON_HOST)
#include "host_block.h"
#else
#include "device.h"
#endif

namespace ns_diff3r {
namespace cuda {
namespace {

template <class T>
void bind_plan(py::module_& module, const std::string& suffix) {
  using P = Plan<T>;
  const auto list_bytes = [](int64_t intersections, int64_t tiles) { return sort_bytes<T>(intersections, tiles); };
  py::class_<P>(module, ("Plan" + suffix).c_str(), py::module_local())
      .def(py::init<int64_t, int, int, int, int, const py::dict&, const std::map<std::string, uintptr_t>&>())
      .def("set", &P::set)
      .def("set_parameters", [](P& p, const Addresses& params) { p.scene.params = inputs<T>(params); })
      .def_property(
          "room", [](const P& p) { return p.scene.room; }, [](P& p, int64_t count) { p.scene.room = count; })
      .def_property_readonly("num_tiles", [](const P& p) { return p.scene.num_tiles(); })
      .def("sort_bytes", [=](const P& p) { return list_bytes(p.scene.room, p.scene.num_tiles()); })
      .def("scan_bytes", [](const P& p) { return scan_bytes(p.scene.num_records()); })
      .def("project", [](const P& p, uintptr_t work, size_t bytes, uintptr_t stream) {
             project(p.scene, pointer<void>(work), bytes, stream);
           })
      .def("make_lists",
           [](const P& p, const std::array<uintptr_t, 6>& work, size_t bytes, uintptr_t stream) {
             make_lists(p.scene,
                        {pointer<void>(work[0]), pointer<void>(work[1]), pointer<uint32_t>(work[2]),
                         pointer<uint32_t>(work[3]), pointer<uint32_t>(work[4]), pointer<void>(work[5]), bytes},
                        stream);
           })
      .def("make_masks", [](const P& p, uintptr_t stream) { make_masks(p.scene, stream); })
      .def("reproject", [](const P& p, uintptr_t origin_flags, uintptr_t stream) {
             reproject(p.scene, pointer<const uint8_t>(origin_flags), stream);
           })
      .def("render", [](const P& p, uintptr_t rgb, uintptr_t alpha, uintptr_t depth, bool linearize, uintptr_t stream) {
             render(p.scene, {pointer<T>(rgb), pointer<T>(alpha), pointer<T>(depth)}, linearize, stream);
           })
      .def("jvp", [](const P& p, const Addresses& tangents, uintptr_t records, uintptr_t out, uintptr_t stream) {
             jvp(p.scene, inputs<T>(tangents), pointer<void>(records), pointer<T>(out), stream);
           })
      .def("vjp",
           [](const P& p, uintptr_t rgb, uintptr_t alpha, uintptr_t depth_sum, uintptr_t slots, const Addresses& out,
              uintptr_t camera_partial, uintptr_t camera_out, uintptr_t stream) {
             vjp(p.scene, {pointer<const T>(rgb), pointer<const T>(alpha), pointer<const T>(depth_sum)},
                 pointer<T>(slots), outputs<T>(out), pointer<double>(camera_partial), pointer<double>(camera_out), stream);
           })
      .def("gauss_newton",
           [](const P& p, const Addresses& tangents, uintptr_t weights, uintptr_t records, uintptr_t slots,
              const Addresses& out, uintptr_t stream) {
             gauss_newton(p.scene, inputs<T>(tangents), pointer<const T>(weights), pointer<void>(records),
                          pointer<T>(slots), outputs<T>(out), stream);
           })
      .def("blocks",
           [](const P& p, uintptr_t weights, uintptr_t slots, const Addresses& diagonal, uintptr_t geometry, uintptr_t sh,
              uintptr_t stream) {
             blocks(p.scene, pointer<const T>(weights), pointer<T>(slots), outputs<T>(diagonal), pointer<T>(geometry),
                    pointer<T>(sh), stream);
           })
      .def("vjp_tangent",
           [](const P& p, const Addresses& tangents, uintptr_t u, uintptr_t du, uintptr_t records, uintptr_t slots,
              const Addresses& out, uintptr_t stream) {
             vjp_tangent(p.scene, inputs<T>(tangents), pointer<const T>(u), pointer<const T>(du), pointer<void>(records),
                         pointer<T>(slots), outputs<T>(out), stream);
           });
  module.def(("cameras" + suffix).c_str(),
             [](const Matrices& viewmats, const Matrices& Ks, int width, int height, bool inria_clamp) {
               const auto cameras = cameras_from<T>(viewmats, Ks, width, height, inria_clamp);
               static_assert(sizeof(Camera<T>) % sizeof(T) == 0, "a camera is a row of numbers");
               const py::ssize_t numbers = sizeof(Camera<T>) / sizeof(T);
               py::array_t<T> rows({py::ssize_t(cameras.size()), numbers});
               std::memcpy(rows.mutable_data(), cameras.data(), cameras.size() * sizeof(Camera<T>));
               return rows;
             });
  module.attr(("key_bytes" + suffix).c_str()) = key_bytes<T>();
}

#if defined(NS_ON_HOST)
void bind_host(py::module_& module) {
  module.def("set_thread_order",
             [](const std::string& order, uint64_t seed) {
               HostSettings& settings = host_settings();
               if (order == "forward") settings.order = ThreadOrder::forward;
               else if (order == "reverse") settings.order = ThreadOrder::reverse;
               else if (order == "shuffled") settings.order = ThreadOrder::shuffled;
               else throw py::value_error("the order is forward, reverse or shuffled, not " + order);
               settings.seed = seed;
             },
             py::arg("order"), py::arg("seed") = 1, "In which order the threads of a block (and blocks) run on the host.");
  module.def("skip_barrier", [](int64_t index) { host_settings().skipped = index; },
             "Leave out the barrier with this index in barrier_sites(); -1: none.");
  module.def("launches", [] { return host_settings().launches; }, "How many kernels have been launched so far.");
  module.def("check_total", [](uintptr_t record_slots, int64_t num_records) {
    check_total(pointer<uint32_t>(record_slots), num_records, 0);
  }, "What looks for a sum of intersections that has run over.");
  module.def("kernel_seconds", [] { return std::exchange(host_settings().seconds, 0.0); },
             "Time spent in kernels since the last call.");
  module.def("barrier_sites", &barrier_sites, py::arg("clear") = false, "file:line of all barriers met so far.");
}
#endif

}  // namespace

void bind_all(py::module_& module) {
  bind_plan<float>(module, "_float32");
#if defined(NS_ON_HOST)
  bind_plan<double>(module, "_float64");
  bind_host(module);
#else
  module.def("architectures", &architectures, "What the kernels were compiled for.");
  module.def("use_device", &use_device, "Launch on this device from now on, in this thread.");
  module.def("runtime_version", &runtime_version, "Version of the CUDA runtime that is linked in, as 1000 major + 10 minor.");
#endif
  bind_solver(module);
  module.attr("record_numbers") = sizeof(Record<float>) / sizeof(float);
  module.attr("tangent_numbers") = sizeof(TangentRecord<float>) / sizeof(float);
  module.attr("vjp_slot") = kVjpSlot;
  module.attr("tangent_slot") = kTangentSlot;
  module.attr("moment_slot") = kMomentSlot;
  module.attr("camera_block") = kCameraBlock;
  module.attr("too_many_intersections") = kTooMany;
}

}  // namespace cuda
}  // namespace ns_diff3r

#if defined(NS_ON_HOST)
PYBIND11_MODULE(_cuda_host, module) {
  module.doc() = "ns-diff3r's CUDA kernels, executed on the host by the tests";
#else
PYBIND11_MODULE(_cuda, module) {
  module.doc() = "ns-diff3r's CUDA kernels; addresses and streams in, nothing kept: see ns_diff3r.extension";
#endif
  ns_diff3r::cuda::bind_all(module);
}
