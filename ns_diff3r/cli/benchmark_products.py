# SPDX-License-Identifier: Apache-2.0
"""Times of the renderer's products on one size of the benchmark scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch

from ..data.generated import pixel_aligned_scene
from ..rasterization import Linearization, linearize
from ..rasterization.native import NativeLinearization
from ..rasterization.reference_linearization import ReferenceLinearization
from ..solver.image_loss import ImageLoss, LossLinearization
from ..splats import Cameras, Gaussians
from .measure import durations

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


def product_times(problem: Problem, *, preset: str, backend: Backend, rounds: int) -> dict[str, list[float]]:
    """Seconds per round of every product, from raw parameters: projection, SH and the chains back are included.

    `linearize` makes the plan (binning, sorting) too; `forward` renders with the plan there is and records, as for
    products, which pairs contribute. `hessian` is a whole exact Hessian-vector product: jvp, second derivative of the
    loss, vjp_tangent.
    """
    lin, gaussians, v, loss = problem.linearization, problem.gaussians, problem.tangent, problem.loss
    weights, u = loss.curvature, loss.gradient * lin.rgb.numel()
    # What a plan keeps of the projection at its point is computed anew for each product.
    native = isinstance(lin, NativeLinearization)
    project = lin.reproject if native else lambda: None
    forward = lin.rerender if native else lambda: lin.render(gaussians)

    def from_parameters(product: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            project()
            return product()

        return call

    products: dict[str, Callable[[], object]] = {
        "vjp": lambda: lin.vjp(u),
        "jvp": lambda: lin.jvp(v),
        "vjp_tangent": lambda: lin.vjp_tangent(v, u, u),
        "hessian": lambda: lin.vjp_tangent(v, u, loss.hessian_product(lin.jvp(v))),
        "gauss_newton": lambda: lin.gauss_newton(v, weights),
        "diagonal": lambda: lin.diagonal(weights),
        "blocks": lambda: lin.blocks(weights),
    }
    calls: dict[str, Callable[[], object]] = {
        "linearize": lambda: linearize(gaussians, problem.cameras, preset=preset, backend=backend),
        "forward": from_parameters(forward),
        **{name: from_parameters(product) for name, product in products.items()},
    }
    with torch.no_grad():
        return durations(calls, rounds)


def count_pairs(linearization: Linearization) -> int:
    """Contributing (pixel, Gaussian) pairs at the point of linearisation."""
    if isinstance(linearization, NativeLinearization):
        return linearization.statistics["pairs"]
    assert isinstance(linearization, ReferenceLinearization)
    plans = linearization._pairs
    return sum(int(pairs.contributes.sum()) for plan in plans for pairs in plan.pairs or ())
