# SPDX-License-Identifier: Apache-2.0
"""Oracle, first half: the Gaussians of one view as ellipses on the screen, and which are drawn in which order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..splats import Gaussians
from ..splats.rotations import multiply_matrices
from ..splats.spherical_harmonics import spherical_harmonics
from .config import CIRCULAR_SIGMAS, CLAMP_MARGIN, OPACITY_AWARE_MAX_SIGMAS, RasterizationConfig


@dataclass(frozen=True, eq=False)
class ReferenceCamera:
    """One view as plain tensors, so that it may carry derivatives of any kind (`Cameras` checks its values)."""

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class ScreenGaussians:
    """What the pixels see of M Gaussians in one view."""

    means2d: Float[Tensor, "M 2"]
    """Pixels; the first pixel's centre is (0.5, 0.5)."""
    covariances2d: Float[Tensor, "M 2 2"]
    """Including the blur eps2d, pixels²."""
    conics: Float[Tensor, "M 3"]
    """A, B, C of the inverse covariance [[A, B], [B, C]]."""
    opacities: Float[Tensor, " M"]
    """Activated, in antialiased mode compensated."""
    colors: Float[Tensor, "M 3"]
    """max(SH + 0.5, 0)."""
    depths: Float[Tensor, " M"]
    """Camera z."""


@dataclass(frozen=True, eq=False)
class ScreenChoices:
    """The branches taken while projecting M Gaussians; replayed, the projection is a smooth function."""

    below: Bool[Tensor, "M 2"]
    """Slope (x/z, y/z) clamped at its lower bound."""
    above: Bool[Tensor, "M 2"]
    """Slope clamped at its upper bound."""
    compensated: Bool[Tensor, " M"]
    """Ratio of determinants above its floor (antialiased mode)."""
    lit: Bool[Tensor, "M 3"]
    """Colour channel not clamped at 0."""


@dataclass(frozen=True, eq=False)
class DrawList:
    """The Gaussians that a view draws, from front to back, and the tiles they are listed in."""

    order: Int[Tensor, " M"]
    """Indices into the N Gaussians of the scene."""
    tiles: Int[Tensor, "M 4"]
    """First column, first row, end column, end row (ends excluded), in tiles."""


def project(
    gaussians: Gaussians, camera: ReferenceCamera, config: RasterizationConfig, choices: ScreenChoices | None = None
) -> tuple[ScreenGaussians, ScreenChoices]:
    """EWA projection of every given Gaussian (no culling) and its colour in this view.

    Args:
        choices: branches to replay; None takes those that the values ask for.

    Returns:
        The ellipses, differentiable (to any order) in the Gaussians and the view matrix, and the branches taken.
    """
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    focal, center = camera.K.diagonal()[:2], camera.K[:2, 2]
    positions = (rotation * gaussians.means[:, None, :]).sum(-1) + translation  # [M, 3] in the camera's frame
    depths = positions[:, 2]

    slopes = positions[:, :2] / depths[:, None]
    lowest, highest = slope_bounds(camera, config)
    below = slopes < lowest if choices is None else choices.below
    above = slopes > highest if choices is None else choices.above
    slopes = torch.where(below, lowest, torch.where(above, highest, slopes))
    zeros = torch.zeros_like(depths)
    # d(mean2d)/d(position) with x = z·clamp(x/z)
    jacobian = torch.stack(
        [
            torch.stack([focal[0] / depths, zeros, -focal[0] * slopes[:, 0] / depths], dim=-1),
            torch.stack([zeros, focal[1] / depths, -focal[1] * slopes[:, 1] / depths], dim=-1),
        ],
        dim=-2,
    )
    to_screen = multiply_matrices(jacobian, rotation.expand(len(depths), 3, 3))  # [M, 2, 3]
    sharp = multiply_matrices(multiply_matrices(to_screen, gaussians.covariances()), to_screen.transpose(-1, -2))
    blurred = sharp + config.eps2d * torch.eye(2, dtype=sharp.dtype, device=sharp.device)
    determinants = determinant(blurred)
    conics = torch.stack([blurred[:, 1, 1], -blurred[:, 0, 1], blurred[:, 0, 0]], dim=-1) / determinants[:, None]

    ratios = determinant(sharp) / determinants
    compensated = ratios > config.min_compensation if choices is None else choices.compensated
    opacities = gaussians.opacities_activated
    if config.antialiased:
        # The inner `where` keeps the root's infinite slope at 0 out of the derivative.
        roots = torch.where(compensated, ratios, 1.0).sqrt()
        opacities = opacities * torch.where(compensated, roots, math.sqrt(config.min_compensation))

    position_of_camera = -(rotation * translation[:, None]).sum(0)
    coefficients = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    colors = 0.5 + spherical_harmonics(gaussians.sh_degree, gaussians.means - position_of_camera, coefficients)
    lit = colors >= 0 if choices is None else choices.lit

    screen = ScreenGaussians(
        means2d=focal * positions[:, :2] / (depths + config.perspective_epsilon)[:, None] + center,
        covariances2d=blurred,
        conics=conics,
        opacities=opacities,
        colors=torch.where(lit, colors, 0.0),
        depths=depths,
    )
    return screen, ScreenChoices(below, above, compensated, lit)


@torch.no_grad()
def list_gaussians(gaussians: Gaussians, camera: ReferenceCamera, config: RasterizationConfig) -> DrawList:
    """Cull, sort by depth (ties by index) and find the tile rectangles, from the values as they are."""
    # Gaussians at and behind the camera give infinities and NaNs here: every test below is False for a NaN.
    screen, _ = project(gaussians, camera, config)
    radii = extents(screen, config)
    size = torch.tensor([camera.width, camera.height], device=radii.device)
    kept = (screen.depths >= config.near_plane) & (screen.depths <= config.far_plane)
    kept &= determinant(screen.covariances2d) > 0
    kept &= (radii > config.radius_clip).any(dim=-1)
    if config.tile_offset == 0.0:
        kept &= ((screen.means2d + radii > 0) & (screen.means2d - radii < size)).all(dim=-1)
    (kept,) = kept.nonzero(as_tuple=True)
    tiles = tile_rectangles(screen.means2d[kept], radii[kept], camera, config)
    listed = (tiles[:, 2:] > tiles[:, :2]).all(dim=-1)
    kept, tiles = kept[listed], tiles[listed]
    front_to_back = torch.sort(screen.depths[kept], stable=True).indices
    return DrawList(order=kept[front_to_back], tiles=tiles[front_to_back])


def extents(screen: ScreenGaussians, config: RasterizationConfig) -> Float[Tensor, "M 2"]:
    """Half width and height, in whole pixels, of the rectangle that a Gaussian is listed in; 0 if it draws nothing."""
    variances = torch.stack([screen.covariances2d[:, 0, 0], screen.covariances2d[:, 1, 1]], dim=-1)
    if config.extent == "circular":
        mean = variances.mean(-1)
        spread = (mean**2 - determinant(screen.covariances2d)).clamp_min(config.eigenvalue_floor)
        radius = (CIRCULAR_SIGMAS * (mean + spread.sqrt()).sqrt()).ceil()
        return torch.stack([radius, radius], dim=-1)
    sigmas = (2.0 * (screen.opacities / config.alpha_min).log()).sqrt().clamp_max(OPACITY_AWARE_MAX_SIGMAS)
    radii = (sigmas[:, None] * variances.sqrt()).ceil()
    return torch.where((screen.opacities >= config.alpha_min)[:, None], radii, 0.0)


def tile_rectangles(
    means2d: Float[Tensor, "M 2"], radii: Float[Tensor, "M 2"], camera: ReferenceCamera, config: RasterizationConfig
) -> Int[Tensor, "M 4"]:
    """First and end tile on both axes by the rule of `RasterizationConfig.tile_offset`."""
    size, offset = config.tile_size, config.tile_offset
    first = ((means2d - offset - radii) / size).floor()
    if offset == 0.0:
        end = ((means2d + radii) / size).ceil()
    else:
        end = ((means2d - offset + radii + (size - 1)) / size).floor()
    grid = torch.tensor([math.ceil(camera.width / size), math.ceil(camera.height / size)], device=means2d.device)
    zero = torch.zeros_like(grid)
    return torch.cat([first.clamp(zero, grid), end.clamp(zero, grid)], dim=-1).long()


def slope_bounds(
    camera: ReferenceCamera, config: RasterizationConfig
) -> tuple[Float[Tensor, " 2"], Float[Tensor, " 2"]]:
    """Lowest and highest x/z and y/z that the projection's Jacobian uses."""
    focal, center = camera.K.diagonal()[:2], camera.K[:2, 2]
    size = torch.tensor([camera.width, camera.height], dtype=focal.dtype, device=focal.device)
    tangent = 0.5 * size / focal
    if config.clamp == "inria":
        highest = (1.0 + CLAMP_MARGIN) * tangent
        return -highest, highest
    return -(center / focal + CLAMP_MARGIN * tangent), (size - center) / focal + CLAMP_MARGIN * tangent


def determinant(matrices: Float[Tensor, "M 2 2"]) -> Float[Tensor, " M"]:
    """Determinants of symmetric 2x2 matrices."""
    return matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 0, 1]
