# SPDX-License-Identifier: Apache-2.0
"""Times of a PCG solve and of a TTO step, with the share that passes in Python."""

from __future__ import annotations

import time
from typing import Any

import torch

from ..data.generated import pixel_aligned_scene
from ..rasterization import linearize, render
from ..solver import DifferentiableTTO, ImageLoss, PCGConfig, TTOConfig
from ..solver.curvature_scale import floored, scene_curvature
from ..solver.normal_operator import NormalOperator
from ..solver.pcg import pcg
from ..solver.preconditioners import make_preconditioner
from ..solver.prior import Prior
from ..splats import Gaussians, Views
from .benchmark_products import Backend
from .measure import native_clock

SHORT, LONG = 5, 25
"""A step is the difference of two runs over the difference of their steps, which leaves out what happens once."""


def training_pair(image_size: int, num_views: int, sh_degree: int = 0) -> tuple[Gaussians, Views]:
    """Gaussians that are off by a little, and views of the scene they are off from; float32."""
    truth, cameras = pixel_aligned_scene(image_size, sh_degree=sh_degree, num_views=num_views)
    generator = torch.Generator().manual_seed(2)
    start = truth.map(lambda leaf: leaf + 0.02 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    with torch.no_grad():
        images = render(truth, cameras).rgb.clamp(0, 1)
    return start, Views(images, cameras)


def step_time(image_size: int = 128, num_views: int = 2) -> dict[str, Any]:
    """One Adam step of TTO with the default loss: milliseconds, and the share outside the compiled extension."""
    start, views = training_pair(image_size, num_views)

    def run(steps: int) -> tuple[float, float, int]:
        layer = DifferentiableTTO(TTOConfig(num_steps=steps)).eval()
        with torch.no_grad(), native_clock() as clock:
            begin = time.perf_counter()
            layer(start, 1.0, views)
            return time.perf_counter() - begin, clock.total, clock.calls

    run(SHORT)  # warms up
    whole, native, calls = ((long - short) / (LONG - SHORT) for short, long in zip(run(SHORT), run(LONG), strict=True))
    return {
        "views": f"{num_views} x {image_size}²",
        "Gaussians": start.num_gaussians,
        "step ms": 1e3 * whole,
        "Python %": 100 * (1 - native / whole),
        "native calls": calls,
    }


def solve_time(
    image_size: int, strength: float = 1.0, tolerance: float = 1e-3, sh_degree: int = 0, backend: Backend = "auto"
) -> dict[str, Any]:
    """One solve of A u = Jᵀe for the default loss and preconditioner, λ = `strength`; also per iteration."""
    start, views = training_pair(image_size, 1, sh_degree)
    linearization = linearize(start, views.cameras, backend=backend)
    loss = ImageLoss(kind="l1", ssim_weight=0.2).linearize(linearization.rgb, views.images)
    n = views.images.numel()
    scale = floored(scene_curvature(linearization, loss.curvature, n).tolist())
    flat = start.flatten()
    prior = Prior(flat, torch.full_like(flat, strength), scale, start.group_slices())
    rhs = linearization.vjp(loss.gradient).flatten()
    config = PCGConfig(tolerance=tolerance)

    begin = time.perf_counter()
    operator = NormalOperator(linearization, loss.curvature, n, prior.strength)
    result = pcg(operator, rhs, config, make_preconditioner(config.preconditioner, operator))
    whole = time.perf_counter() - begin
    return {
        "size": image_size,
        "Gaussians": start.num_gaussians,
        "λ": strength,
        "preconditioner": config.preconditioner,
        "solve ms": 1e3 * whole,
        "iterations": result.iterations,
        "residual": result.residual,
        "ms per iteration": 1e3 * whole / max(1, result.iterations),
    }
