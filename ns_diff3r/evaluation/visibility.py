# SPDX-License-Identifier: Apache-2.0
"""What each Gaussian has to do with each view: how much of the view it draws, and how wrong the view is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..solver import TTOConfig
from ..solver.scene_job import make_linearizer
from ..splats import Cameras, Gaussians
from ..splats.painting import painted
from ..splats.spherical_harmonics import SH_C0

MIN_WEIGHT = 0.05
"""Pixels that a Gaussian must make up of a view that sees it."""
MIN_SHARE = 0.1
"""The same, as a share of what it makes up of the context view in which it is largest."""


@torch.no_grad()
def gathered(
    gaussians: Gaussians, cameras: Cameras, images: Float[Tensor, "V H W 3"], config: TTOConfig
) -> Float[Tensor, "V N 3"]:
    """Σ_x w_i(x)·image(x) over the pixels x of every view, w_i = T_i α_i the compositing weight of Gaussian i.

    Exact, and one pass a view: the colour of a pixel is Σ_i w_i c_i and w does not depend on the colours, so Jᵀ·image
    in the constant harmonic, of Gaussians whose colours are away from their clamp, is this sum times `SH_C0`. Of images
    of ones it is the number of pixels that Gaussian i makes up.

    Args:
        gaussians: N of them.
        cameras: V views.
        images: what is summed.
        config: its renderer draws.
    """
    grey = painted(gaussians, gaussians.opacities.new_full((gaussians.num_gaussians,), 0.5))
    rows = []
    for view in range(cameras.num_views):
        linearization = make_linearizer(config, cameras[view].to(dtype=grey.dtype), grey)(grey)
        rows.append(linearization.vjp(images[view : view + 1].to(grey.dtype).contiguous()).sh0[:, 0] / SH_C0)
    return torch.stack(rows)


def view_weights(gaussians: Gaussians, cameras: Cameras, config: TTOConfig) -> Float[Tensor, "V N"]:
    """How many pixels every Gaussian makes up of every view; 0 outside the frustum, little behind others."""
    ones = gaussians.means.new_ones(cameras.num_views, cameras.height, cameras.width, 3)
    return gathered(gaussians, cameras, ones, config)[..., 0]


@torch.no_grad()
def error_at_gaussians(
    gaussians: Gaussians, cameras: Cameras, errors: Float[Tensor, "V H W"], config: TTOConfig, min_weight: float
) -> Float[Tensor, " N"]:
    """Mean of an error image over the pixels where a Gaussian is drawn, each counting by its weight there, all views
    together; NaN where it makes up fewer than `min_weight` pixels of them."""
    both = torch.stack([torch.ones_like(errors), errors, torch.zeros_like(errors)], dim=-1)
    weight, error, _ = gathered(gaussians, cameras, both, config).sum(0).unbind(-1)
    return torch.where(weight >= min_weight, error / weight.clamp_min(1e-12), torch.nan)


@dataclass(frozen=True, eq=False)
class ContextVisibility:
    """Which of the context views see a Gaussian.

    Attributes:
        weights: pixels that each Gaussian makes up of each context view.
        inside: whether its centre is in front of the camera and within the image.
    """

    weights: Float[Tensor, "V N"]
    inside: Bool[Tensor, "V N"]

    @staticmethod
    def of(gaussians: Gaussians, cameras: Cameras, config: TTOConfig) -> ContextVisibility:
        """Of Gaussians in V context views."""
        return ContextVisibility(view_weights(gaussians, cameras, config), projects_inside(gaussians.means, cameras))

    @property
    def moved(self) -> Bool[Tensor, " N"]:
        """Whether any context view has a pixel of it: no gradient reaches the others, so λ is without effect there."""
        return self.weights.amax(0) > 0

    def views(self, min_weight: float = MIN_WEIGHT, min_share: float = MIN_SHARE) -> Int[Tensor, " N"]:
        """How many context views see a Gaussian: those of which it makes up at least `min_weight` pixels, and at least
        `min_share` of what it makes up of the view in which it is largest (so neither outside nor hidden there)."""
        return ((self.weights >= min_weight) & (self.weights >= min_share * self.weights.amax(0))).sum(0)

    def effective_views(self) -> Float[Tensor, " N"]:
        """(Σ w)²/Σ w² over the views: the same without a threshold, 1 to V; 0 where nothing is seen."""
        total, squares = self.weights.sum(0), self.weights.square().sum(0)
        return torch.where(squares > 0, total.square() / squares.clamp_min(1e-30), 0.0)

    def frustum_views(self) -> Int[Tensor, " N"]:
        """How many context views have its centre in their image, whatever stands before it."""
        return self.inside.sum(0)


def projects_inside(means: Float[Tensor, "N 3"], cameras: Cameras) -> Bool[Tensor, "V N"]:
    """Whether points are in front of each camera and within its image."""
    viewmats, intrinsics = cameras.viewmats.to(means.dtype), cameras.Ks.to(means.dtype)
    local = torch.einsum("vij,nj->vni", viewmats[:, :3, :3], means) + viewmats[:, None, :3, 3]
    image = torch.einsum("vij,vnj->vni", intrinsics, local)
    pixel = image[..., :2] / image[..., 2:].clamp_min(1e-9)
    size = pixel.new_tensor([cameras.width, cameras.height])
    return (local[..., 2] > 0) & (pixel >= 0).all(-1) & (pixel <= size).all(-1)
