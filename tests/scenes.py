# SPDX-License-Identifier: Apache-2.0
"""Small random scenes that are hard in one named way each; shared by the tests of all backends and of the solver."""

import math

import torch
from torch import Tensor

from ns_diff3r.splats import Cameras, Gaussians

SCENE_KINDS = [
    "generic",
    "behind",  # a third of the Gaussians behind the camera, around its plane, or between the near planes of the presets
    "huge",  # larger than the image
    "tiny",  # far smaller than a pixel
    "needle",  # axes that differ by up to 1000
    "transparent",  # opacities around the threshold 1/255
    "opaque",  # opacities beyond the caps, centres on pixel centres
    "stack",  # so many layers that pixels stop early
    "tile_border",  # extents that end just before or after a tile's or the image's border
    "beyond_clamp",  # slopes x/z, y/z beyond the range that the projection's Jacobian uses
    "dark",  # colour channels below zero
    "ties",  # pairs of Gaussians at exactly the same point
]


def make_scene(
    kind: str = "generic",
    sh_degree: int = 1,
    num_gaussians: int = 24,
    num_views: int = 2,
    size: tuple[int, int] = (35, 45),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Gaussians, Cameras]:
    """Gaussians in front of (and hard for) view 0, and cameras that see them from nearby points.

    Args:
        kind: one of `SCENE_KINDS`.
        size: height and width in pixels; the default is no multiple of a tile.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in SCENE_KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    random = torch.Generator().manual_seed(1000 * SCENE_KINDS.index(kind) + seed)
    cameras = make_cameras(num_views, size, random)
    height, width = size
    n = num_gaussians

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    # In view 0: where on the image (pixels), how deep, how large (standard deviations in pixels), how opaque.
    pixel = torch.stack([uniform(-0.1, 1.1, n) * width, uniform(-0.1, 1.1, n) * height], dim=-1)
    depth = uniform(2.0, 6.0, n)
    sigma = torch.exp(uniform(math.log(0.7), math.log(5.0), n, 3))
    logit = 0.5 + 1.5 * normal(n)
    sh0 = 0.8 * normal(n, 1, 3)
    shn = 0.25 * normal(n, (sh_degree + 1) ** 2 - 1, 3)

    if kind == "behind":
        depth[::3] = torch.tensor([-4.0, -0.3, -0.009, 0.009, 0.05, 0.15])[torch.arange(len(depth[::3])) % 6].double()
    elif kind == "huge":
        sigma = torch.exp(uniform(math.log(0.5), math.log(20.0), n, 3)) * max(size)
    elif kind == "tiny":
        sigma = torch.exp(uniform(math.log(1e-4), math.log(0.5), n, 3))
        logit = uniform(2.0, 5.0, n)
        sigma[::2] = uniform(0.2, 0.5, len(sigma[::2]), 3)
        # Opaque ones on pixel centres show even at the smallest compensation of the antialiased mode.
        pixel[1::4], logit[1::4] = pixel[1::4].floor() + 0.5, 7.0
    elif kind == "needle":
        sigma = torch.exp(uniform(math.log(0.02), math.log(20.0), n, 3))
    elif kind == "transparent":
        logit = uniform(-8.0, -3.5, n)
    elif kind == "opaque":
        pixel = pixel.floor().clamp_min(0) + 0.5 + 0.02 * normal(n, 2)
        logit = uniform(4.0, 14.0, n)
        # Large ones at the back stay at the cap when the antialiased mode lowers opacities.
        depth[::3], sigma[::3] = uniform(7.0, 9.0, len(depth[::3])), uniform(20.0, 60.0, len(depth[::3]), 3)
    elif kind == "stack":
        pixel = torch.tensor([width / 2, height / 2]) + 3.0 * normal(n, 2)
        sigma = uniform(4.0, 9.0, n, 3)
        logit = uniform(0.5, 3.5, n)
    elif kind == "tile_border":
        sigma = uniform(1.0, 8.0, n, 1) * (1.0 + 1e-3 * normal(n, 3))  # spheres, but for a derivative by the rotation
        borders = 16.0 * torch.randint(0, 4, (n, 2), generator=random)
        side = torch.randint(0, 2, (n, 2), generator=random) * 2.0 - 1.0
        # The first half just beyond the right and the lower border: inside the last tile if the image ends within it.
        for axis, some in enumerate((slice(0, n // 4), slice(n // 4, n // 2))):
            sigma[some] = sigma[some].clamp_min(6.0)
            borders[some] = pixel[some].clamp_min(0.0).minimum(torch.tensor([width, height]))
            side[some] = 0.0
            borders[some, axis], side[some, axis] = float(size[1 - axis]), 1.0
        jitter = 0.05 * normal(n, 2)
        pixel = borders
        for _ in range(10):  # the extent of a sphere depends on where it is seen
            pixel = borders + side * sphere_radius(sigma[:, 0], pixel, cameras.Ks[0]) + jitter
        logit = uniform(1.0, 5.0, n)
    elif kind == "beyond_clamp":
        direction = normal(n, 2)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        pixel = torch.tensor([width, height]) * (0.5 + uniform(0.7, 1.2, n, 1) * direction)
        sigma = uniform(0.3, 0.7, n, 3) * max(size)
    elif kind == "dark":
        sh0 = sh0 - 2.0 * torch.randint(0, 2, sh0.shape, generator=random)

    # To the world: the opposite of view 0's projection.
    viewmat, K = cameras.viewmats[0], cameras.Ks[0]
    focal = K.diagonal()[:2]
    camera_xy = (pixel - K[:2, 2]) / focal * depth[:, None]
    camera = torch.cat([camera_xy, depth[:, None]], dim=-1)
    means = (camera - viewmat[:3, 3]) @ viewmat[:3, :3]
    scales = torch.log(sigma * depth.abs().clamp_min(0.05)[:, None] / focal.mean())
    if kind == "ties":
        means[1::2] = means[0 : 2 * (n // 2) : 2]
    quats = normal(n, 4) * torch.exp(0.5 * normal(n, 1))
    gaussians = Gaussians(means=means, quats=quats, scales=scales, opacities=logit, sh0=sh0, shN=shn)
    return gaussians.to(dtype=dtype), cameras.to(dtype=dtype)


def make_cameras(num_views: int, size: tuple[int, int], random: torch.Generator) -> Cameras:
    """Float64 cameras about four units in front of the origin, differing in pose and intrinsics."""
    height, width = size
    noise = torch.randn(num_views, 10, generator=random, dtype=torch.float64)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(num_views, 1, 1)
    cross = torch.zeros(num_views, 3, 3, dtype=torch.float64)
    for (row, column), value in {(2, 1): 0, (0, 2): 1, (1, 0): 2}.items():
        cross[:, row, column] = 0.15 * noise[:, value]
        cross[:, column, row] = -0.15 * noise[:, value]
    viewmats[:, :3, :3] = torch.linalg.matrix_exp(cross)
    viewmats[:, :3, 3] = torch.tensor([0.0, 0.0, 4.0]) + 0.2 * noise[:, 3:6]
    Ks = torch.eye(3, dtype=torch.float64).repeat(num_views, 1, 1)
    Ks[:, 0, 0] = width * (0.9 + 0.05 * noise[:, 6])
    Ks[:, 1, 1] = width * (0.9 + 0.05 * noise[:, 7])
    Ks[:, 0, 2] = width / 2 + noise[:, 8]
    Ks[:, 1, 2] = height / 2 + noise[:, 9]
    return Cameras(viewmats=viewmats, Ks=Ks, width=width, height=height)


def sphere_radius(sigma: Tensor, pixel: Tensor, K: Tensor) -> Tensor:
    """[N, 1] circular extent (3 sigma, eps2d 0.3) in whole pixels of spheres seen at `pixel` [N, 2]."""
    focal = K.diagonal()[:2]
    slope = (pixel - K[:2, 2]) / focal
    factor = torch.cat([torch.eye(2, dtype=pixel.dtype).expand(len(pixel), 2, 2), -slope[:, :, None]], dim=-1)
    factor = factor * (focal / focal.mean())[:, None] * sigma[:, None, None]
    covariance = factor @ factor.transpose(-1, -2) + 0.3 * torch.eye(2, dtype=pixel.dtype)
    b = 0.5 * covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    largest = b + (b * b - torch.linalg.det(covariance)).clamp_min(0.01).sqrt()
    return torch.ceil(3.0 * largest.sqrt())[:, None]


def random_tangent(like: Gaussians, seed: int = 0) -> Gaussians:
    """A Gaussians-shaped direction of standard normal numbers."""
    random = torch.Generator().manual_seed(seed)
    return like.map(lambda leaf: torch.randn(leaf.shape, generator=random, dtype=torch.float64).to(leaf))


def random_images(cameras: Cameras, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images [V, H, W, 3] of standard normal numbers."""
    random = torch.Generator().manual_seed(seed)
    shape = (cameras.num_views, cameras.height, cameras.width, 3)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(cameras.device, dtype)


def dot(a: Gaussians, b: Gaussians) -> float:
    """⟨a, b⟩ over all leaves, summed in float64."""
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a.leaves(), b.leaves(), strict=True))
