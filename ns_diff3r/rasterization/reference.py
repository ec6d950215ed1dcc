# SPDX-License-Identifier: Apache-2.0
"""The oracle of all tests: a dense renderer in plain torch, for small scenes, twice differentiable.

Every pixel meets every Gaussian of its view in depth order, in the dtype of the scene (float64 wherever numbers are
compared). The mathematics is that of `RasterizationConfig`; derivatives are autograd's. Every branch is taken on
detached values and can be recorded and replayed, so that finite differences see the function that autograd sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..splats import Cameras, Gaussians
from .config import RasterizationConfig
from .protocol import Freeze, Rendering
from .reference_compositing import PairChoices, composite
from .reference_projection import DrawList, ReferenceCamera, ScreenChoices, list_gaussians, project

PAIRS_AT_ONCE = 1 << 22
"""Pixels are composited in groups of about this many (pixel, Gaussian) pairs: bounds memory without autograd."""


@dataclass(frozen=True, eq=False)
class ViewPlan:
    """The decisions of one view: those of freeze="order" and, unless None, those of freeze="pairs"."""

    drawn: DrawList
    screen: ScreenChoices | None = None
    pairs: Sequence[PairChoices] | None = None
    """One per group of pixels."""


def render_reference(
    gaussians: Gaussians,
    cameras: Cameras,
    config: RasterizationConfig,
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None = None,
    plan: Sequence[ViewPlan] | None = None,
) -> Rendering:
    """Render all views; differentiable to any order in the Gaussians, the view matrices and the background.

    Args:
        gaussians: N Gaussians, float32 or float64.
        cameras: V views of the same dtype.
        config: semantics.
        background: colour behind the Gaussians, for all views or per view; black if None.
        plan: decisions to replay (`plan_reference`); None takes those that the values ask for.

    Raises:
        ValueError: dtypes or devices differ, or the background has another shape.
    """
    colors = background_per_view(background, gaussians, cameras)
    return render_views(gaussians, cameras.viewmats, cameras, config, colors, plan)


def plan_reference(
    gaussians: Gaussians,
    cameras: Cameras,
    config: RasterizationConfig,
    freeze: Freeze = "pairs",
    lists: Sequence[ViewPlan] | None = None,
) -> tuple[ViewPlan, ...]:
    """The decisions taken at these values, one plan a view: order and tile lists, with "pairs" all others too.

    Args:
        lists: a plan whose order and tile lists are kept; None makes them for these values.

    Raises:
        ValueError: `freeze` is neither "order" nor "pairs".
    """
    if freeze not in ("order", "pairs"):
        raise ValueError(f'freeze must be "order" or "pairs", not {freeze!r}')
    colors = background_per_view(None, gaussians, cameras)
    with torch.no_grad():
        plans = [
            _render_view(gaussians, *view, config, None if kept is None else ViewPlan(kept.drawn))[1]
            for view, kept in zip(
                _views(cameras.viewmats, cameras, colors), lists or [None] * cameras.num_views, strict=True
            )
        ]
    return tuple(plans) if freeze == "pairs" else tuple(ViewPlan(plan.drawn) for plan in plans)


def visible_gaussians(plan: Sequence[ViewPlan], num_gaussians: int) -> Bool[Tensor, " N"]:
    """Whether a Gaussian contributes to at least one pixel of a view of a plan made with freeze="pairs"."""
    contributing = [v.drawn.order[pairs.contributes.any(dim=0)] for v in plan for pairs in v.pairs or ()]
    return torch.bincount(torch.cat(contributing), minlength=num_gaussians) > 0


def render_views(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "V 4 4"],
    cameras: Cameras,
    config: RasterizationConfig,
    background: Float[Tensor, "V 3"],
    plan: Sequence[ViewPlan] | None = None,
) -> Rendering:
    """`render_reference` with the view matrices apart from the cameras, so that they may be transformed tensors."""
    views = _views(viewmats, cameras, background)
    plans = [None] * len(views) if plan is None else plan
    images = [_render_view(gaussians, *view, config, p)[0] for view, p in zip(views, plans, strict=True)]
    rgb, alpha, depth = torch.stack(images).split([3, 1, 1], dim=-1)
    return Rendering(rgb=rgb, alpha=alpha, depth=depth)


def _render_view(
    gaussians: Gaussians,
    camera: ReferenceCamera,
    background: Float[Tensor, " 3"],
    config: RasterizationConfig,
    plan: ViewPlan | None,
) -> tuple[Float[Tensor, "H W 5"], ViewPlan]:
    drawn = list_gaussians(gaussians.detach(), camera, config) if plan is None else plan.drawn
    screen, screen_choices = project(gaussians[drawn.order], camera, config, plan and plan.screen)
    groups = _pixel_groups(camera, len(drawn.order))
    frozen = plan.pairs if plan is not None and plan.pairs is not None else [None] * len(groups)
    results, pair_choices = zip(
        *(
            composite(screen, drawn.tiles, pixels, background, config, choices)
            for pixels, choices in zip(groups, frozen, strict=True)
        ),
        strict=True,
    )
    image = torch.cat(results).reshape(camera.height, camera.width, 5)
    return image, ViewPlan(drawn, screen_choices, pair_choices)


def _pixel_groups(camera: ReferenceCamera, num_drawn: int) -> tuple[Float[Tensor, "P 2"], ...]:
    options = {"dtype": camera.K.dtype, "device": camera.K.device}
    rows, columns = (0.5 + torch.arange(size, **options) for size in (camera.height, camera.width))
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2)
    return pixels.split(max(1, math.ceil(PAIRS_AT_ONCE / max(1, num_drawn))))


def _views(
    viewmats: Float[Tensor, "V 4 4"], cameras: Cameras, background: Float[Tensor, "V 3"]
) -> list[tuple[ReferenceCamera, Tensor]]:
    return [
        (ReferenceCamera(viewmat, K, cameras.width, cameras.height), color)
        for viewmat, K, color in zip(viewmats.unbind(), cameras.Ks.unbind(), background.unbind(), strict=True)
    ]


def background_per_view(background: Tensor | None, gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "V 3"]:
    """The background of every view, in the dtype of the scene; ValueError if shape, dtypes or devices do not fit."""
    if cameras.dtype != gaussians.dtype or cameras.device != gaussians.device:
        raise ValueError(
            f"Gaussians ({gaussians.dtype}, {gaussians.device}) and cameras ({cameras.dtype}, {cameras.device}) differ"
        )
    if background is None:
        return gaussians.means.new_zeros(cameras.num_views, 3)
    if background.shape not in ((3,), (cameras.num_views, 3)):
        raise ValueError(f"background must be [3] or [{cameras.num_views}, 3], not {list(background.shape)}")
    return background.to(gaussians.means).expand(cameras.num_views, 3)
