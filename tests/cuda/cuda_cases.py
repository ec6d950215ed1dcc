# SPDX-License-Identifier: Apache-2.0
"""Where the CUDA kernels are tested: executed on the host everywhere, and on a device where there is one."""

from __future__ import annotations

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, extension
from ns_diff3r.rasterization import resolve_preset
from ns_diff3r.rasterization.cuda import CudaLinearization

HOST_ONLY = [pytest.param("cpu", id="host")]
PLACES = [*HOST_ONLY, pytest.param("cuda", id="device", marks=pytest.mark.cuda)]

AWAY_FROM_THRESHOLDS = {"generic", "behind", "huge", "dark", "ties", "beyond_clamp"}
"""Kinds of scenes; one on a threshold is decided differently by two backends in float32."""


def require(place: str) -> None:
    """Skip the test, with the reason, where its kernels cannot run."""
    if place == "cpu":
        extension.cuda_host()  # built with every installation: missing is a failure
    elif not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    elif not extension.has_cuda():
        pytest.skip("the package was built without CUDA kernels")


def dtypes_at(place: str) -> tuple[torch.dtype, float]:
    """Precision of the kernels there, and how far from the CPU backend in float64 a product may be, in norm."""
    return (torch.float64, 1e-10) if place == "cpu" else (torch.float32, 1e-4)


def cuda_linearization(
    gaussians: Gaussians,
    cameras: Cameras,
    place="cpu",
    preset="gsplat-1.4.0",
    background=None,
    antialiased=False,
    **more,
) -> CudaLinearization:
    """The CUDA backend's linearisation with its tensors at `place`."""
    config = resolve_preset(preset, antialiased)
    return CudaLinearization(gaussians.to(device=place), cameras.to(device=place), config, background, **more)
