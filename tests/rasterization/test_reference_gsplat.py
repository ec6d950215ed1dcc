# SPDX-License-Identifier: Apache-2.0
"""The oracle's projection against the functions of gsplat that run on a CPU, of whichever version is installed."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from plyfile import PlyData

from ns_diff3r.rasterization.config import PRESETS, resolve_preset
from ns_diff3r.rasterization.reference_projection import (
    ReferenceCamera,
    extents,
    list_gaussians,
    project,
    tile_rectangles,
)
from ns_diff3r.splats import Cameras, Gaussians
from tests.scenes import make_scene

gsplat = pytest.importorskip("gsplat")
torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")

VERSIONS = {"1.4": "gsplat-1.4.0", "1.5": "gsplat-1.5.3"}
KINDS = ["generic", "huge", "tiny", "needle", "tile_border", "beyond_clamp"]


@pytest.fixture
def config():
    version = ".".join(gsplat.__version__.split(".")[:2])
    if version not in VERSIONS:
        pytest.skip(f"no preset for gsplat {gsplat.__version__}")
    return resolve_preset(VERSIONS[version], antialiased=True)


def reference_camera(cameras, view=0):
    return ReferenceCamera(cameras.viewmats[view], cameras.Ks[view], cameras.width, cameras.height)


def gsplat_projection(gaussians, cameras):
    covariances, _ = torch_impl._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales.exp())
    return torch_impl._fully_fused_projection(
        gaussians.means,
        covariances,
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        calc_compensations=True,
    )


def check_projection(gaussians, cameras, config):
    """Values of both, view by view, for the Gaussians that gsplat draws; returns how many those are."""
    radii, means2d, depths, conics, compensations = gsplat_projection(gaussians, cameras)
    drawn = radii > 0 if radii.ndim == 2 else (radii > 0).all(-1)
    # gsplat's torch code knows no opacities; more than opaque ones have its extent of 3.33 sigma.
    wide = dataclasses.replace(config, radius_clip=0.0)
    for view in range(cameras.num_views):
        camera, of_gsplat = reference_camera(cameras, view), drawn[view]
        screen, _ = project(gaussians[of_gsplat], camera, wide)
        exact = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(screen.means2d, means2d[view, of_gsplat], **exact)
        torch.testing.assert_close(screen.depths, depths[view, of_gsplat], **exact)
        torch.testing.assert_close(screen.conics, conics[view, of_gsplat], **exact)
        compensated = gaussians[of_gsplat].opacities_activated * compensations[view, of_gsplat]
        torch.testing.assert_close(screen.opacities, compensated, rtol=1e-6, atol=1e-9)
        boundless = dataclasses.replace(screen, opacities=torch.full_like(screen.opacities, 10.0))
        expected = radii[view, of_gsplat].reshape(int(of_gsplat.sum()), -1).expand(-1, 2)
        torch.testing.assert_close(extents(boundless, wide), expected.to(screen.depths), rtol=0, atol=0)
        everything_opaque = dataclasses.replace(gaussians, opacities=torch.full_like(gaussians.opacities, 50.0))
        ours = list_gaussians(everything_opaque, camera, dataclasses.replace(wide, antialiased=False)).order
        assert set(of_gsplat.nonzero()[:, 0].tolist()) >= set(ours.tolist())
        if config.extent == "circular":
            assert set(of_gsplat.nonzero()[:, 0].tolist()) == set(ours.tolist())
    return int(drawn.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_projection_of_synthetic_scenes(kind, config):
    gaussians, cameras = make_scene(kind, num_gaussians=300, num_views=3)
    assert check_projection(gaussians, cameras, config) > 200


@pytest.mark.parametrize("scene", ["fox", "strecha_fountain", "brighton_aerial", "vr_apartment"])
def test_projection_of_real_scenes(scene, dev_scenes, config):
    gaussians, cameras = load_scene(dev_scenes / scene)
    assert check_projection(gaussians, cameras, config) > 1000


def load_scene(folder, num_points=4000, num_views=3):
    """Random Gaussians at triangulated points, and the first cameras, in float64."""
    transforms = json.loads((folder / "transforms.json").read_text())
    frames = sorted(transforms["frames"], key=lambda frame: frame["file_path"])[:num_views]
    points = PlyData.read(str(folder / transforms["ply_file_path"]))["vertex"]
    means = torch.from_numpy(np.stack([points[axis] for axis in "xyz"], axis=-1).astype(np.float64))
    means = means[torch.linspace(0, len(means) - 1, min(num_points, len(means))).long()]
    random = torch.Generator().manual_seed(0)
    size = math.log(float(means.std()) * 0.02)
    gaussians = Gaussians(
        means=means,
        quats=torch.randn(len(means), 4, generator=random, dtype=torch.float64),
        scales=size + torch.randn(len(means), 3, generator=random, dtype=torch.float64),
        opacities=torch.randn(len(means), generator=random, dtype=torch.float64),
        sh0=torch.zeros(len(means), 1, 3, dtype=torch.float64),
        shN=torch.zeros(len(means), 0, 3, dtype=torch.float64),
    )
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(frames), 1, 1)
    for K, frame in zip(Ks, frames, strict=True):
        intrinsics = {**transforms, **frame}
        K[0, 0], K[1, 1], K[0, 2], K[1, 2] = (intrinsics[name] for name in ("fl_x", "fl_y", "cx", "cy"))
    poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
    width, height = (int({**transforms, **frames[0]}[name]) for name in "wh")
    return gaussians, Cameras.from_camera_to_world_opengl(poses, Ks, width, height)


@pytest.mark.parametrize("kind", ["generic", "tile_border", "huge"])
def test_tile_lists_and_order(kind, config):
    gaussians, cameras = make_scene(kind, num_gaussians=60, num_views=1)
    camera, tile = reference_camera(cameras), config.tile_size
    drawn = list_gaussians(gaussians, camera, config)
    screen, _ = project(gaussians, camera, config)
    radii = extents(screen, config)
    kept = torch.zeros(gaussians.num_gaussians, dtype=torch.bool).index_fill(0, drawn.order, True)
    grid = math.ceil(cameras.width / tile), math.ceil(cameras.height / tile)
    given = torch.where(kept[:, None], radii, 0.0).int()
    per_gaussian, keys, ids = torch_impl._isect_tiles(
        screen.means2d[None],
        given[None] if config.extent == "opacity_aware" else given[None, :, 0],
        screen.depths[None],
        tile,
        *grid,
    )
    count = (drawn.tiles[:, 2:] - drawn.tiles[:, :2]).prod(-1)
    assert torch.equal(per_gaussian[0][drawn.order], count.int())
    assert torch.equal(drawn.tiles, tile_rectangles(screen.means2d, radii, camera, config)[drawn.order])
    tiles = (keys >> 32) & ((1 << (grid[0] * grid[1]).bit_length()) - 1)
    for number in range(grid[0] * grid[1]):
        column, row = number % grid[0], number // grid[0]
        first, end = drawn.tiles[:, :2], drawn.tiles[:, 2:]
        position = torch.tensor([column, row])
        listed = ((first <= position) & (position < end)).all(-1)
        assert torch.equal(ids[tiles == number].long(), drawn.order[listed])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_projection(kind, config):
    """To every parameter of the geometry and to the view matrix, at the slope clamps too."""
    gaussians, cameras = make_scene(kind, num_gaussians=80, num_views=1)
    radii = gsplat_projection(gaussians, cameras)[0][0]
    gaussians = gaussians[radii > 0 if radii.ndim == 1 else (radii > 0).all(-1)]
    random = torch.Generator().manual_seed(1)
    means2d, depths, conics, opacities = (
        torch.randn(gaussians.num_gaussians, *shape, generator=random, dtype=torch.float64)
        for shape in ((2,), (), (3,), ())
    )

    def gradients(function):
        leaves = gaussians.map(lambda leaf: leaf.clone().requires_grad_())
        viewmat = cameras.viewmats.clone().requires_grad_()
        inputs = (leaves.means, leaves.quats, leaves.scales, leaves.opacities, viewmat)
        weighted = zip(function(leaves, viewmat), (means2d, depths, conics, opacities), strict=True)
        loss = sum((value * weight).sum() for value, weight in weighted)
        return torch.autograd.grad(loss, inputs)

    def ours(leaves, viewmat):
        screen, _ = project(leaves, ReferenceCamera(viewmat[0], cameras.Ks[0], cameras.width, cameras.height), config)
        return screen.means2d, screen.depths, screen.conics, screen.opacities

    def theirs(leaves, viewmat):
        moved = dataclasses.replace(cameras, viewmats=viewmat)
        _, *values, compensations = (value[0] for value in gsplat_projection(leaves, moved))
        return values[0], values[1], values[2], leaves.opacities.sigmoid() * compensations

    for mine, other in zip(gradients(ours), gradients(theirs), strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7 * scale)


@pytest.mark.parametrize("degree", range(5))
def test_colors(degree, config):
    gaussians, cameras = make_scene("dark", sh_degree=degree, num_gaussians=100, num_views=1)
    screen, choices = project(gaussians, reference_camera(cameras), config)
    coefficients = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    directions = gaussians.means - torch.linalg.inv(cameras.viewmats[0])[:3, 3]
    expected = torch_impl._spherical_harmonics(degree, directions, coefficients) + 0.5
    torch.testing.assert_close(screen.colors, expected.clamp_min(0), rtol=0, atol=1e-7)
    assert torch.equal(choices.lit, expected >= 0)


def test_covariances(config):
    gaussians, _ = make_scene("needle", num_gaussians=200)
    expected, _ = torch_impl._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales_activated)
    torch.testing.assert_close(gaussians.covariances(), expected, rtol=1e-12, atol=1e-14)


def test_presets_cover_the_versions():
    assert set(VERSIONS.values()) < set(PRESETS)
