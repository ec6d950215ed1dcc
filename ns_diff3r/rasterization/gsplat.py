# SPDX-License-Identifier: Apache-2.0
"""gsplat as a backend, chosen by name, on CUDA: the other side of comparisons and benchmarks.

It renders and differentiates by autograd; forward mode, frozen decisions and repeatable gradients it does not have.
Each version implements one preset, and is refused for others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Cameras, Gaussians
from .config import PRESETS, RasterizationConfig
from .protocol import Rendering

VERSIONS = {"1.4.0": "gsplat-1.4.0", "1.5.3": "gsplat-1.5.3"}
"""Version of gsplat → the preset whose semantics it has."""

ARGUMENTS = ("near_plane", "far_plane", "radius_clip", "eps2d", "antialiased")
"""Fields of a `RasterizationConfig` that gsplat takes as arguments; the others are compiled into it."""


@lru_cache(maxsize=1)
def installed_version() -> str | None:
    """Version of the installed gsplat without a local part such as "+cu124"; None without one."""
    try:
        return version("gsplat").split("+")[0]
    except PackageNotFoundError:
        return None


def check_preset(config: RasterizationConfig) -> None:
    """ValueError unless the installed gsplat draws as `config` says; the message names what would."""
    found = installed_version()
    if found is None:
        raise ValueError('backend="gsplat" needs gsplat 1.4.0 or 1.5.3, which is not installed; use backend="native"')
    if found not in VERSIONS:
        raise ValueError(f"gsplat {found} implements none of our presets; use 1.4.0 or 1.5.3, or another backend")
    own = PRESETS[VERSIONS[found]]
    if replace(config, **{name: getattr(own, name) for name in ARGUMENTS}) != own:
        raise ValueError(
            f'gsplat {found} draws the preset "{VERSIONS[found]}" and no other; use that, or backend="native"'
        )


@lru_cache(maxsize=1)
def load() -> Callable[..., Any] | None:
    """gsplat's `rasterization`, or None, after one warning, where it cannot be imported, built or run."""
    try:
        rasterization = import_module("gsplat").rasterization
        point = {"device": "cuda", "dtype": torch.float32}
        rasterization(  # its kernels are compiled at the first call
            means=torch.tensor([[0.0, 0.0, 2.0]], **point),
            quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]], **point),
            scales=torch.full((1, 3), 0.1, **point),
            opacities=torch.tensor([0.5], **point),
            colors=torch.zeros(1, 3, **point),
            viewmats=torch.eye(4, **point)[None],
            Ks=torch.eye(3, **point)[None],
            width=16,
            height=16,
        )
    except Exception as error:  # a build can fail in any way, and must not break a run
        logging.getLogger(__name__).warning("gsplat does not work here, the native backend draws instead: %s", error)
        return None
    return rasterization


def render_gsplat(
    gaussians: Gaussians,
    cameras: Cameras,
    config: RasterizationConfig,
    background: Float[Tensor, " 3"] | Float[Tensor, "V 3"] | None,
    rasterization: Callable[..., Any],
) -> Rendering:
    """Draw by gsplat's `rasterization`; differentiable as it is, to `cameras.viewmats` and `background` too."""
    colors = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    if background is not None:
        background = torch.as_tensor(background).to(gaussians.means).expand(cameras.num_views, 3)
    images, alpha, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales.exp(),
        opacities=gaussians.opacities.sigmoid(),
        colors=colors,
        viewmats=cameras.viewmats.to(gaussians.means),
        Ks=cameras.Ks.to(gaussians.means),
        width=cameras.width,
        height=cameras.height,
        near_plane=config.near_plane,
        far_plane=config.far_plane,
        radius_clip=config.radius_clip,
        eps2d=config.eps2d,
        sh_degree=gaussians.sh_degree,
        packed=False,
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if config.antialiased else "classic",
    )
    rgb, depth = images[..., :3], images[..., 3:]
    if background is not None:  # outside: versions disagree on a background beside a depth channel
        rgb = rgb + (1.0 - alpha) * background[:, None, None, :]
    return Rendering(rgb, alpha, depth)
