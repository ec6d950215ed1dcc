# SPDX-License-Identifier: Apache-2.0
"""Mirrored samples: the mirrored picture is what the mirrored camera sees of the mirrored scene."""

import pytest
import torch

from ns_diff3r.data import BatchSampler, SamplerConfig, SceneError, open_collection
from ns_diff3r.data.mirroring import mirrored_cameras, mirrored_views
from ns_diff3r.rasterization import render
from ns_diff3r.splats import Cameras, Gaussians, SparsePoints, Views
from tests.data.scene_files import write_scene
from tests.scenes import make_scene

ODD_IN_X = (3, 4, 7, 10, 13, 15)
"""Spherical harmonics of degrees 1 to 3 that change their sign with x."""


def mirrored_gaussians(gaussians: Gaussians) -> Gaussians:
    """The same scene on the other side of the plane x = 0."""
    harmonics = gaussians.shN.clone()
    for index in ODD_IN_X:
        if index <= harmonics.shape[1]:
            harmonics[:, index - 1] = -harmonics[:, index - 1]
    return Gaussians(
        gaussians.means * gaussians.means.new_tensor([-1.0, 1.0, 1.0]),
        gaussians.quats * gaussians.quats.new_tensor([1.0, 1.0, -1.0, -1.0]),
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh0,
        harmonics,
    )


@pytest.mark.parametrize("degree", [1, 3])
def test_a_mirrored_scene_looks_like_the_mirrored_picture(degree):
    """Principal points off the centre, two focal lengths, turned cameras, an odd width."""
    gaussians, cameras = make_scene("generic", sh_degree=degree, size=(30, 41), dtype=torch.float64, seed=2)
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] += 6.3
    Ks[:, 1, 2] -= 2.1
    Ks[:, 1, 1] *= 1.3
    cameras = Cameras(cameras.viewmats, Ks, cameras.width, cameras.height)
    before = render(gaussians, cameras)
    after = render(mirrored_gaussians(gaussians), mirrored_cameras(cameras))
    assert float(before.rgb.std()) > 0.05
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name).flip(2), atol=1e-9, rtol=0)


def test_mirroring_twice_changes_nothing():
    _, cameras = make_scene("generic", dtype=torch.float64)
    images = torch.rand(cameras.num_views, cameras.height, cameras.width, 3, dtype=torch.float64)
    near = torch.ones(cameras.num_views, dtype=torch.float64)
    points = SparsePoints(torch.randn(5, 3).double(), torch.rand(5, 3).double())
    views = Views(images, cameras, near, 9 * near, points)
    once, twice = mirrored_views(views), mirrored_views(mirrored_views(views))
    assert torch.linalg.det(once.cameras.viewmats[:, :3, :3]).min() > 0.99
    assert not torch.equal(once.images, images)
    assert torch.equal(twice.images, images)
    assert torch.equal(once.near, near)
    assert torch.equal(once.far, 9 * near)
    torch.testing.assert_close(twice.cameras.viewmats, cameras.viewmats, atol=0, rtol=0)
    torch.testing.assert_close(twice.cameras.Ks, cameras.Ks, atol=1e-12, rtol=0)
    assert once.points is not None
    assert twice.points is not None
    assert torch.equal(twice.points.positions, points.positions)
    pixels = [project(v.cameras, p.positions) for v, p in ((views, points), (once, once.points))]
    torch.testing.assert_close(pixels[1][..., 0], cameras.width - pixels[0][..., 0])
    torch.testing.assert_close(pixels[1][..., 1], pixels[0][..., 1])


def project(cameras: Cameras, positions: torch.Tensor) -> torch.Tensor:
    """[V, P, 2] pixels."""
    local = torch.einsum("vij,pj->vpi", cameras.viewmats[:, :3, :3], positions) + cameras.viewmats[:, None, :3, 3]
    image = torch.einsum("vij,vpj->vpi", cameras.Ks, local)
    return image[..., :2] / image[..., 2:]


def test_flips_are_a_function_of_seed_and_step_and_leave_the_choice_of_views(tmp_path):
    collection = open_collection(write_scene(tmp_path / "scene", num_frames=9))
    config = {"scenes_per_step": 2, "num_context": 2, "num_targets": 1}
    plain = BatchSampler(SamplerConfig(**config), collection)
    half, again = (BatchSampler(SamplerConfig(flip_probability=0.5, **config), collection) for _ in range(2))
    flips = []
    for step in range(100):
        for own, theirs in zip(half.plan(step), plain.plan(step), strict=True):
            assert (own.scene, own.context, own.targets) == (theirs.scene, theirs.context, theirs.targets)
            flips.append(own.mirrored)
        assert not any(indices.mirrored for indices in plain.plan(step))
    assert 70 <= sum(flips) <= 130
    assert flips == [indices.mirrored for step in range(100) for indices in again.plan(step)]
    assert [half.plan(s, rank, 2)[0].mirrored for s in range(9) for rank in (0, 1)] != flips[:18]  # ranks differ
    step = next(step for step in range(100) if half.plan(step)[0].mirrored)
    batch, original = half.batch(step)[0], plain.batch(step)[0]
    for own, theirs in ((batch.context, original.context), (batch.targets, original.targets)):
        assert torch.equal(own.images, theirs.images.flip(2))
        torch.testing.assert_close(own.cameras.Ks[:, 0, 2], own.cameras.width - theirs.cameras.Ks[:, 0, 2])
    item = half.evaluation_items(0)[0]
    assert torch.equal(half.load(item).targets.images, plain.load(item).targets.images)
    with pytest.raises(SceneError, match="flip_probability"):
        BatchSampler(SamplerConfig(flip_probability=1.5), collection)
