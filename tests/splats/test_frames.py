# SPDX-License-Identifier: Apache-2.0
"""Similarities and the normalised frame: a scene and its image under a similarity look alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ns_diff3r.splats import Cameras, Gaussians, Similarity, Views, normalized_frame, spherical_harmonics
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.splats.random_gaussians import assert_same, random_cameras, random_gaussians


@st.composite
def similarities(draw, turning: bool = True) -> Similarity:
    quat = draw(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.01))
    rotation = quats_to_rotations(torch.tensor(quat if turning else [1.0, 0, 0, 0], dtype=torch.float64))
    scale = torch.tensor(10.0 ** draw(st.floats(-2, 2)), dtype=torch.float64)
    translation = draw(st.lists(st.floats(-10, 10), min_size=3, max_size=3))
    return Similarity(scale, rotation, torch.tensor(translation, dtype=torch.float64))


properties = settings(derandomize=True, deadline=None, max_examples=20)
POINTS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seen(gaussians: Gaussians, cameras: Cameras, scale: float = 1.0) -> list[torch.Tensor]:
    """What a renderer sees of Gaussians: camera coordinates and covariances in units of `scale`, and colours."""
    rotations, translations = cameras.viewmats[:, None, :3, :3], cameras.viewmats[:, None, :3, 3]
    means = (rotations @ gaussians.means[:, :, None])[..., 0] + translations
    covariances = rotations @ gaussians.covariances() @ rotations.mT
    directions = gaussians.means - cameras.centers[:, None]
    sh = torch.cat([gaussians.sh0, gaussians.shN], dim=1).expand(cameras.num_views, -1, -1, 3)
    colors = spherical_harmonics(gaussians.sh_degree, directions, sh)
    return [means / scale, covariances / scale**2, colors]


@properties
@given(similarity=similarities(), degree=st.integers(0, 4))
def test_a_moved_scene_looks_the_same(similarity, degree):
    gaussians, cameras = random_gaussians(6, degree), random_cameras()
    moved = seen(similarity.apply_gaussians(gaussians), similarity.apply_cameras(cameras), float(similarity.scale))
    for after, before in zip(moved, seen(gaussians, cameras), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@properties
@given(similarity=similarities())
def test_inverse(similarity):
    back = similarity.inverse()
    torch.testing.assert_close(back.apply_points(similarity.apply_points(POINTS)), POINTS, rtol=0, atol=1e-11)
    identity = back.compose(similarity)
    torch.testing.assert_close(identity.apply_points(POINTS), POINTS, rtol=0, atol=1e-11)
    gaussians = random_gaussians(5, 3)
    returned = back.apply_gaussians(similarity.apply_gaussians(gaussians))
    # The way there and back multiplies quaternions by q and its conjugate up to sign.
    sign = torch.sign((returned.quats * gaussians.quats).sum(-1, keepdim=True))
    returned = Gaussians(returned.means, sign * returned.quats, *returned.leaves()[2:])
    assert_same(returned, gaussians, rtol=1e-9, atol=1e-9)


@properties
@given(second=similarities(), first=similarities())
def test_composition(second, first):
    both = second.compose(first)
    torch.testing.assert_close(both.apply_points(POINTS), second.apply_points(first.apply_points(POINTS)))
    gaussians, cameras = random_gaussians(5, 2), random_cameras()
    at_once, in_turn = both.apply_gaussians(gaussians), second.apply_gaussians(first.apply_gaussians(gaussians))
    torch.testing.assert_close(at_once.covariances(), in_turn.covariances())
    torch.testing.assert_close(at_once.shN, in_turn.shN)
    moved = second.apply_cameras(first.apply_cameras(cameras))
    torch.testing.assert_close(both.apply_cameras(cameras).viewmats, moved.viewmats)


def test_without_rotation_orientation_and_colour_are_untouched():
    gaussians = random_gaussians(5, 4)
    moved = Similarity(torch.tensor(2.0), torch.eye(3), torch.ones(3)).apply_gaussians(gaussians)
    assert moved.quats is gaussians.quats
    assert moved.shN is gaussians.shN
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved.scales_activated, 2 * gaussians.scales_activated, rtol=1e-7, atol=0)
    assert_same(Similarity.identity().apply_gaussians(gaussians), gaussians)


def test_views_scale_their_depth_range():
    cameras = random_cameras(2, torch.float32)
    views = Views(torch.rand(2, 30, 40, 3), cameras, near=torch.tensor([1.0, 2.0]), far=None)
    moved = Similarity(torch.tensor(4.0), torch.eye(3), torch.ones(3)).apply_views(views)
    assert moved.near is not None
    assert moved.near.tolist() == [4.0, 8.0]
    assert moved.far is None
    torch.testing.assert_close(moved.cameras.centers, 4 * cameras.centers + 1)


def test_derivatives_of_moved_gaussians():
    gaussians = random_gaussians(1, 2)
    rotation = quats_to_rotations(torch.tensor([0.5, 0.1, -0.7, 0.2], dtype=torch.float64))
    similarity = Similarity(torch.tensor(3.0).double(), rotation, torch.ones(3).double())
    flat = gaussians.flatten().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: similarity.apply_gaussians(gaussians.unflatten(f)).flatten(), (flat,))


def test_autocast_does_not_round():
    gaussians, cameras = random_gaussians(5, 2, torch.float32), random_cameras(2, torch.float32)
    rotation = quats_to_rotations(torch.tensor([0.5, 0.1, -0.7, 0.2]))
    similarity = Similarity(torch.tensor(3.0), rotation, torch.ones(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved, moved_cameras = similarity.apply_gaussians(gaussians), similarity.apply_cameras(cameras)
        frame = normalized_frame(gaussians, cameras)
        composed = similarity.compose(similarity.inverse())
    assert_same(moved, similarity.apply_gaussians(gaussians))
    assert torch.equal(moved_cameras.viewmats, similarity.apply_cameras(cameras).viewmats)
    assert torch.equal(frame.scale, normalized_frame(gaussians, cameras).scale)
    torch.testing.assert_close(composed.rotation, torch.eye(3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((torch.tensor(0.0), torch.eye(3), torch.zeros(3)), r"scale must be positive, got 0\.0"),
        ((torch.ones(1), torch.eye(3), torch.zeros(3)), r"scale must have shape \[\]"),
        ((torch.tensor(1.0), 2 * torch.eye(3), torch.zeros(3)), "proper rotation"),
        ((torch.tensor(1.0), -torch.eye(3), torch.zeros(3)), "proper rotation"),
        ((torch.tensor(1.0), torch.eye(3), torch.full((3,), torch.nan)), "translation has 3 non-finite"),
    ],
)
def test_bad_similarities(fields, message):
    with pytest.raises(ValueError, match=message):
        Similarity(*fields)


def scene_in_front(dtype: torch.dtype = torch.float64) -> tuple[Gaussians, Cameras]:
    """Gaussians at depths 2, 3, 4 on the axis of the first of two cameras, two behind it, two beyond each border."""
    cameras = random_cameras(2)
    rotation, translation = cameras.viewmats[0, :3, :3], cameras.viewmats[0, :3, 3]
    in_camera = torch.tensor([[0, 0, 2.0], [0, 0, 3.0], [0, 0, 4.0], [0, 0, -50.0], [0, 0, -60.0]])
    beside = torch.tensor([[100.0, 0, 100], [-100, 0, 100], [0, 100, 100], [0, -100, 100]]).repeat(2, 1)
    gaussians = random_gaussians(13, 1)
    means = (torch.cat([in_camera, beside]).double() - translation) @ rotation
    return Gaussians(means, *gaussians.leaves()[1:]).to(dtype=dtype), cameras.to(dtype=dtype)


def test_normalized_frame_puts_the_first_camera_at_the_origin_and_the_median_depth_at_one():
    gaussians, cameras = scene_in_front()
    frame = normalized_frame(gaussians, cameras)
    assert not frame.rotates
    moved = frame.apply_cameras(cameras)
    torch.testing.assert_close(moved.centers[0], torch.zeros(3).double(), rtol=0, atol=1e-15)
    assert frame.scale.item() == pytest.approx(1 / 3, rel=1e-14)
    depths = seen(frame.apply_gaussians(gaussians), moved)[0][0, :, 2]
    assert depths[:4].tolist() == pytest.approx([2 / 3, 1.0, 4 / 3, -50 / 3])


@pytest.mark.parametrize("factor", [10.0, 1e-4])
def test_the_scale_of_the_world_does_not_matter(factor):
    gaussians, cameras = scene_in_front()
    world = Similarity(
        torch.tensor(factor).double(), torch.eye(3).double(), torch.tensor([5.0, -7.0, 3.0]).double() * factor
    )
    here = normalized_frame(gaussians, cameras)
    there_gaussians, there_cameras = world.apply_gaussians(gaussians), world.apply_cameras(cameras)
    there = normalized_frame(there_gaussians, there_cameras)
    assert_same(there.apply_gaussians(there_gaussians), here.apply_gaussians(gaussians), atol=1e-12)
    torch.testing.assert_close(
        there.apply_cameras(there_cameras).viewmats, here.apply_cameras(cameras).viewmats, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(there.compose(world).scale, here.scale, rtol=1e-12, atol=0)


def test_normalized_frame_is_a_constant_for_autograd():
    gaussians, cameras = scene_in_front(torch.float32)
    gaussians.requires_grad_()
    frame = normalized_frame(gaussians, cameras)
    assert frame.scale.dtype == torch.float32
    assert not frame.scale.requires_grad
    assert frame.apply_gaussians(gaussians).means.requires_grad


def test_where_the_first_camera_sees_nothing_the_others_decide():
    gaussians, cameras = scene_in_front()
    turned = cameras.viewmats[0].clone()
    turned[[0, 2]] *= -1  # about its vertical axis by half a turn: the scene is behind it
    # It sees those that were behind, so leave them out.
    in_front = gaussians[:3]
    looking_away = Cameras(torch.stack([turned, cameras.viewmats[0]]), cameras.Ks, cameras.width, cameras.height)
    assert normalized_frame(in_front, looking_away).scale.item() == pytest.approx(1 / 3, rel=1e-14)
    with pytest.raises(ValueError, match=r"none of 3 Gaussians .* of any of 1 cameras"):
        normalized_frame(in_front, looking_away[0])
    with pytest.raises(ValueError, match="none of 0 Gaussians"):
        normalized_frame(gaussians[:0], cameras)
    with pytest.raises(ValueError, match="at least one camera"):
        normalized_frame(gaussians, cameras[:0])
    with pytest.raises(ValueError, match="Gaussians are on meta, cameras on cpu"):
        normalized_frame(gaussians.to("meta"), cameras)
