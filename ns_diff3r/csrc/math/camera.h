// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "vec.h"

namespace ns_diff3r {

// A pinhole view: x_cam = R x_world + t (OpenCV axes: x right, y down, z forward), pixels with the first centre at 0.5.
template <class S>
struct Camera {
  S rotation[9];  // by rows
  S translation[3];
  S center[3];  // -Rᵀ t
  S fx, fy, cx, cy;
  // limits of x/z and y/z in the projection's Jacobian
  S limit_x_low, limit_x_high, limit_y_low, limit_y_high;
};

}  // namespace ns_diff3r
