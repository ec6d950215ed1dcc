// SPDX-License-Identifier: Apache-2.0
// What Python hands to a rasteriser, for the bindings of every backend. Arrays are addresses (tensor.data_ptr()) whose
// shapes and lifetimes the Python side checks.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/plan_view.h"

namespace ns_diff3r {

namespace py = pybind11;

using Addresses = std::array<uintptr_t, 6>;  // means, quats, scales, opacities, sh0, shN
using Matrices = py::array_t<double, py::array::c_style | py::array::forcecast>;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}
template <class T>
GaussianPointers<T> inputs(const Addresses& a) {
  return {pointer<const T>(a[0]), pointer<const T>(a[1]), pointer<const T>(a[2]),
          pointer<const T>(a[3]), pointer<const T>(a[4]), pointer<const T>(a[5])};
}
template <class T>
GaussianOutputs<T> outputs(const Addresses& a) {
  return {pointer<T>(a[0]), pointer<T>(a[1]), pointer<T>(a[2]), pointer<T>(a[3]), pointer<T>(a[4]), pointer<T>(a[5])};
}

template <class T>
RasterizationConfig<T> config_from(const py::dict& d) {
  const auto number = [&](const char* name) { return T(d[name].cast<double>()); };
  RasterizationConfig<T> c;
  c.alpha_max = number("alpha_max");
  c.alpha_min = number("alpha_min");
  c.transmittance_min = number("transmittance_min");
  c.eps2d = number("eps2d");
  c.near_plane = number("near_plane");
  c.far_plane = number("far_plane");
  c.radius_clip = number("radius_clip");
  c.eigenvalue_floor = number("eigenvalue_floor");
  c.min_compensation = number("min_compensation");
  c.tile_offset = number("tile_offset");
  c.perspective_epsilon = number("perspective_epsilon");
  c.extent = d["extent"].cast<std::string>() == "opacity_aware" ? Extent::opacity_aware : Extent::circular;
  c.gradient_through_cap = d["gradient_through_cap"].cast<bool>();
  c.antialiased = d["antialiased"].cast<bool>();
  if (d["tile_size"].cast<int>() != kTileSize) throw std::invalid_argument("the native backend has tiles of 16 pixels");
  return c;
}

template <class T>
std::vector<Camera<T>> cameras_from(const Matrices& viewmats, const Matrices& Ks, int width, int height, bool inria_clamp) {
  const auto m = viewmats.unchecked<3>();
  const auto k = Ks.unchecked<3>();
  std::vector<Camera<T>> cameras(static_cast<size_t>(m.shape(0)));
  for (py::ssize_t v = 0; v < m.shape(0); ++v) {
    Camera<T>& c = cameras[size_t(v)];
    double center[3] = {0, 0, 0};
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) {
        c.rotation[3 * i + j] = T(m(v, i, j));
        center[j] -= m(v, i, j) * m(v, i, 3);
      }
      c.translation[i] = T(m(v, i, 3));
    }
    for (int i = 0; i < 3; ++i) c.center[i] = T(center[i]);
    const double fx = k(v, 0, 0), fy = k(v, 1, 1), cx = k(v, 0, 2), cy = k(v, 1, 2);
    c.fx = T(fx);
    c.fy = T(fy);
    c.cx = T(cx);
    c.cy = T(cy);
    const double tan_x = 0.5 * width / fx, tan_y = 0.5 * height / fy;
    c.limit_x_low = T(inria_clamp ? -1.3 * tan_x : -(cx / fx + 0.3 * tan_x));
    c.limit_x_high = T(inria_clamp ? 1.3 * tan_x : (width - cx) / fx + 0.3 * tan_x);
    c.limit_y_low = T(inria_clamp ? -1.3 * tan_y : -(cy / fy + 0.3 * tan_y));
    c.limit_y_high = T(inria_clamp ? 1.3 * tan_y : (height - cy) / fy + 0.3 * tan_y);
  }
  return cameras;
}

}  // namespace ns_diff3r
