# SPDX-License-Identifier: Apache-2.0
"""Scenes with both backends' linearisations, made once for all tests of the native backend, and how errors count."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ns_diff3r import Cameras, Gaussians
from ns_diff3r.rasterization import PRESETS, Linearization, linearize
from ns_diff3r.rasterization.native import NativeLinearization
from ns_diff3r.rasterization.reference import plan_reference
from ns_diff3r.rasterization.reference_linearization import ReferenceLinearization
from tests.scenes import SCENE_KINDS, make_scene, random_images, random_tangent

SIZE = (21, 37)
"""Height and width: no multiples of a tile (16) or of a block (4)."""

PRESETS_AND_MODES = [(preset, antialiased) for preset in PRESETS for antialiased in (False, True)]
EVERYTHING = [(kind, *semantics) for kind in SCENE_KINDS for semantics in PRESETS_AND_MODES]

BACKGROUNDS = torch.tensor([[0.1, 0.4, 0.8], [0.9, 0.2, 0.3]], dtype=torch.float64)
"""One for each of two views."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One scene, linearised by both backends with freeze="pairs", and inputs for its products."""

    native: NativeLinearization
    oracle: ReferenceLinearization
    v: Gaussians
    u: Tensor
    du: Tensor
    weights: Tensor

    @property
    def gaussians(self) -> Gaussians:
        return self.oracle.gaussians

    @property
    def cameras(self) -> Cameras:
        return self.oracle.cameras


@functools.cache
def pair(kind, preset="gsplat-1.4.0", antialiased=False, sh_degree=2, num_gaussians=12, size=SIZE, num_views=2) -> Pair:
    gaussians, cameras = make_scene(kind, sh_degree, num_gaussians, num_views, size)
    return make_pair(gaussians, cameras, preset, antialiased, BACKGROUNDS[:num_views])


def make_pair(gaussians, cameras, preset="gsplat-1.4.0", antialiased=False, background=None) -> Pair:
    arguments = (gaussians, cameras, preset, background, antialiased)
    return Pair(
        native=linearize(*arguments, backend="native", freeze="pairs"),
        oracle=linearize(*arguments, backend="reference", freeze="pairs"),
        v=random_tangent(gaussians, 1),
        u=random_images(cameras, 2),
        du=random_images(cameras, 3),
        weights=random_images(cameras, 4) ** 2,
    )


def assert_same_groups(value: Gaussians, expected: Gaussians, tolerance: float) -> None:
    """Norm of the difference in every attribute group, relative to the norm of the group.

    A group whose gradient is nothing but rounding, below 1e-12 of the whole, only has to stay so.
    """
    floor = 1e-12 * float(expected.flatten().double().norm())
    for (name, x), y in zip(value.items(), expected.leaves(), strict=True):
        error = float((x.double() - y.double()).norm())
        scale = float(y.double().norm())
        assert error <= tolerance * max(scale, floor), f"{name}: {error / max(scale, floor, 1e-300):.1e}"


def assert_same_image(value: Tensor, expected: Tensor, tolerance: float, what: str = "image") -> None:
    """Norm of the difference, relative to the norm."""
    assert value.shape == expected.shape
    error = float((value.double() - expected.double()).norm())
    assert error <= tolerance * float(expected.double().norm()), f"{what}: {error / float(expected.norm()):.1e}"


def all_products(linearization: Linearization, seed: int = 1) -> dict[str, Tensor]:
    """Rendering and every product of a linearisation as flat tensors, for comparisons of whole runs."""
    dtype = linearization.rgb.dtype
    v = random_tangent(linearization.gaussians, seed)
    u, du, weights = (random_images(linearization.cameras, seed + i, dtype) for i in (1, 2, 3))
    weights = weights * weights
    blocks = linearization.blocks(weights)
    return {
        "rgb": linearization.rgb,
        "visible": linearization.visible,
        "jvp": linearization.jvp(v),
        "vjp": linearization.vjp(u).flatten(),
        "vjp_cameras": linearization.vjp_cameras(u),
        "gauss_newton": linearization.gauss_newton(v, weights).flatten(),
        "diagonal": linearization.diagonal(weights).flatten(),
        "blocks.geometry": blocks.geometry,
        "blocks.sh": blocks.sh,
        "vjp_tangent": linearization.vjp_tangent(v, u, du).flatten(),
    }


class WindowOperator:
    """Symmetric, positive semi-definite and not diagonal: neighbouring columns mix, W = Bᵀ D B."""

    def __init__(self, cameras: Cameras, dtype: torch.dtype = torch.float64):
        size = cameras.width
        self.shape = (cameras.num_views, cameras.height, cameras.width, 3)
        band = torch.eye(size, dtype=dtype) + 0.4 * torch.eye(size, dtype=dtype).roll(1, 0)
        self.matrix = band.T @ torch.diag(torch.linspace(0.5, 2, size, dtype=dtype)) @ band

    def __call__(self, images: Tensor) -> Tensor:
        return torch.einsum("ij,vhjc->vhic", self.matrix, images)

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal()[:, None].expand(self.shape)


def along(gaussians: Gaussians, amount: float, tangent: Gaussians) -> Gaussians:
    """θ + εv."""
    return gaussians.combine(lambda x, v: x + amount * v, tangent)


def only(tangent: Gaussians, name: str) -> Gaussians:
    """The part of a tangent in one group."""
    return Gaussians(**{group: leaf if group == name else torch.zeros_like(leaf) for group, leaf in tangent.items()})


def many_gaussians(num_gaussians: int = 1100) -> tuple:
    """Most lie behind the cameras; the indices of the others surround the end of the first work item of 1024."""
    few, cameras = make_scene("generic", num_gaussians=20, size=(19, 27))
    away = few[torch.zeros(num_gaussians, dtype=torch.long)]
    away = Gaussians(away.means - torch.tensor([0.0, 0.0, 50.0]), *away.leaves()[1:])
    at = torch.cat([torch.arange(0, 1000, 125), torch.arange(1018, 1030)])
    return away.combine(lambda many, some: many.index_copy(0, at, some), few), cameras


def behind_a_capped_one(dtype):
    """Translucent layers behind one Gaussian so large and opaque that many pixels see it at the cap."""
    gaussians, cameras = make_scene("stack", 2, 12, 2, SIZE)
    middle = gaussians.means.mean(dim=0)
    towards = cameras.viewmats[0, 2, :3]
    gaussians.means[0] = middle - 3.0 * towards
    gaussians.scales[0] = torch.tensor([2.2, 2.1, 2.3], dtype=torch.float64)
    gaussians.opacities[:] = gaussians.opacities - 3.0
    gaussians.opacities[0] = 14.0
    return gaussians.to(dtype=dtype), cameras.to(dtype=dtype)


def capped_pixels(linearization):
    """(view, row, column, Gaussian) wherever the first contributing Gaussian is at the cap and others show behind."""
    found = []
    gaussians, cameras = linearization.gaussians.to(dtype=torch.float64), linearization.cameras.to(dtype=torch.float64)
    for view, plan in enumerate(plan_reference(gaussians, cameras, linearization.config)):
        pairs = plan.pairs[0]
        first = pairs.contributes.long().argmax(dim=1)
        several = pairs.contributes.sum(dim=1) > 1
        capped = (pairs.capped & pairs.contributes).gather(1, first[:, None])[:, 0]
        for pixel in (several & capped).nonzero()[:, 0].tolist():
            found.append((view, *divmod(pixel, cameras.width), int(plan.drawn.order[first[pixel]])))
    return found
