# SPDX-License-Identifier: Apache-2.0
"""Times of the renderer's products on one size of the benchmark scene."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from ..data.generated import pixel_aligned_scene
from ..rasterization import Linearization, linearize, render
from ..rasterization.native import NativeLinearization
from ..rasterization.reference_linearization import ReferenceLinearization
from ..solver.image_loss import ImageLoss, LossLinearization
from ..splats import Cameras, Gaussians
from .measure import seconds

Backend = Literal["auto", "native", "reference"]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """The benchmark scene around one point, with images and tangents to multiply with."""

    gaussians: Gaussians
    cameras: Cameras
    linearization: Linearization
    tangent: Gaussians
    loss: LossLinearization
    """MSE against a blurred rendering: diagonal W."""


def make_problem(
    image_size: int,
    *,
    contributions_per_pixel: float = 40.0,
    sh_degree: int = 0,
    preset: str = "gsplat-1.4.0",
    backend: Backend = "auto",
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """The scene of `pixel_aligned_scene` in one view of image_size², linearised."""
    gaussians, cameras = pixel_aligned_scene(
        image_size, contributions_per_pixel=contributions_per_pixel, sh_degree=sh_degree, dtype=dtype
    )
    linearization = linearize(gaussians, cameras, preset=preset, backend=backend)
    generator = torch.Generator().manual_seed(1)
    tangent = gaussians.map(lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    rgb = linearization.rgb
    target = (rgb + 0.1 * torch.randn(rgb.shape, generator=generator, dtype=rgb.dtype)).clamp(0, 1)
    loss = ImageLoss(kind="mse", ssim_weight=0.0).linearize(rgb, target)
    return Problem(gaussians, cameras, linearization, tangent, loss)


def product_times(problem: Problem, *, preset: str, backend: Backend, repeats: int) -> dict[str, float]:
    """Seconds of each product from raw parameters; `plan` is what linearising adds to a forward: binning and sorting.

    `hessian` is a whole exact Hessian-vector product: jvp, second derivative of the loss, vjp_tangent.
    """
    lin, gaussians, v, loss = problem.linearization, problem.gaussians, problem.tangent, problem.loss
    n = lin.rgb.numel()
    weights, u = loss.curvature, loss.gradient * n

    def hessian() -> Gaussians:
        return lin.vjp_tangent(v, u, loss.hessian_product(lin.jvp(v)))

    with torch.no_grad():
        whole = seconds(lambda: render(gaussians, problem.cameras, preset=preset, backend=backend), repeats)
        times = {
            "forward": seconds(lambda: lin.render(gaussians), repeats),
            "vjp": seconds(lambda: lin.vjp(u), repeats),
            "jvp": seconds(lambda: lin.jvp(v), repeats),
            "vjp_tangent": seconds(lambda: lin.vjp_tangent(v, u, u), repeats),
            "hessian": seconds(hessian, repeats),
            "gauss_newton": seconds(lambda: lin.gauss_newton(v, weights), repeats),
            "diagonal": seconds(lambda: lin.diagonal(weights), repeats),
            "blocks": seconds(lambda: lin.blocks(weights), repeats),
        }
    return {"plan": max(0.0, whole - times["forward"]), **times}


def count_pairs(linearization: Linearization) -> int:
    """Contributing (pixel, Gaussian) pairs at the point of linearisation."""
    if isinstance(linearization, NativeLinearization):
        return linearization.statistics["pairs"]
    assert isinstance(linearization, ReferenceLinearization)
    plans = linearization._pairs
    return sum(int(pairs.contributes.sum()) for plan in plans for pairs in plan.pairs or ())
