# SPDX-License-Identifier: Apache-2.0
"""Cameras are uploaded once, and again when they change."""

import torch

from ns_diff3r.rasterization import RasterizationConfig, linearize
from ns_diff3r.rasterization.cuda import CudaLinearization
from tests.cuda.cuda_cases import cuda_linearization
from tests.rasterization.native_cases import assert_same_image
from tests.scenes import make_scene


def test_cameras_that_change_in_place():
    gaussians, cameras = make_scene("generic", 1, 8, 1, (12, 14))
    first, second = (CudaLinearization(gaussians, cameras, RasterizationConfig()) for _ in range(2))
    assert first._plan.memory["cameras"] is second._plan.memory["cameras"]
    with torch.no_grad():
        cameras.viewmats[:, 0, 3] += 0.1
    moved = CudaLinearization(gaussians, cameras, RasterizationConfig())
    assert_same_image(moved.rgb, linearize(gaussians, cameras).rgb, 1e-12)


def test_both_clamps():
    gaussians, cameras = make_scene("beyond_clamp", 1, 8, 1, (12, 14))
    for preset in ("gsplat-1.4.0", "inria"):
        value = cuda_linearization(gaussians, cameras, preset=preset)
        assert_same_image(value.rgb, linearize(gaussians, cameras, preset).rgb, 1e-12)
