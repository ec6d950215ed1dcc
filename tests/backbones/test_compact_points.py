# SPDX-License-Identifier: Apache-2.0
"""Sparse points in the compact backbone: the wall of `wall_views`, whose depth is known."""

from dataclasses import replace

import pytest
import torch

from ns_diff3r.backbones.compact_matching import MatchingConfig
from ns_diff3r.backbones.compact_points import point_correction, point_evidence
from ns_diff3r.splats import SparsePoints, Views
from ns_diff3r.splats.frames import Similarity
from tests.backbones.scene_views import wall_views
from tests.backbones.test_compact import make_network, moved_world

SIZE = (32, 40)
NUM_DEPTHS = 16


def on_the_wall(views: Views, depth: torch.Tensor, every: int, view: int = 0) -> SparsePoints:
    """The points of the wall at the pixel centres of some pixels of one view."""
    cameras = views.cameras.to(dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(0, SIZE[0], every), torch.arange(0, SIZE[1], every), indexing="ij")
    x, y = x.flatten(), y.flatten()
    pixels = torch.stack([x + 0.5, y + 0.5, torch.ones(len(x))], dim=1).double()
    local = depth[view, y, x, None] * (pixels @ torch.linalg.inv(cameras.Ks[view]).T)
    positions = (local - cameras.viewmats[view, :3, 3]) @ cameras.viewmats[view, :3, :3]
    return SparsePoints(positions.to(views.dtype), torch.full_like(positions, 0.5).to(views.dtype))


def fractions_of(depth: torch.Tensor) -> torch.Tensor:
    return (1 / depth - 1 / 12) / (1 / 2 - 1 / 12)


def bounds(views: Views) -> tuple[torch.Tensor, torch.Tensor]:
    assert views.near is not None
    assert views.far is not None
    return views.near.double(), views.far.double()


def found_fractions(views: Views, **changes) -> torch.Tensor:
    """What the untrained network makes of the views."""
    with torch.no_grad():
        prediction = make_network(**changes)(views)
    pixels = prediction.gaussians[: 3 * SIZE[0] * SIZE[1]]
    local = torch.einsum("vij,vpj->vpi", views.cameras.viewmats[:, :3, :3], pixels.means.view(3, -1, 3))
    return fractions_of((local + views.cameras.viewmats[:, None, :3, 3])[..., 2].view(3, *SIZE))


def test_points_find_the_wall_where_photographs_cannot():
    """Grey photographs, in which nothing matches."""
    views, depth = wall_views()
    grey = replace(views, images=torch.full_like(views.images, 0.5))
    wanted = fractions_of(depth)
    alone = (found_fractions(grey) - wanted).abs()
    helped = (found_fractions(replace(grey, points=on_the_wall(views, depth, 3))) - wanted).abs()
    assert alone.median() > 0.1
    assert helped[0].median() < 0.01
    assert helped.median() < 0.02
    deaf = MatchingConfig(points=0.0)
    without_evidence = found_fractions(replace(grey, points=on_the_wall(views, depth, 3)), matching=deaf)
    assert (without_evidence - wanted).abs().median() > 5 * helped.median()


def test_points_make_textured_photographs_more_precise():
    views, depth = wall_views()
    wanted = fractions_of(depth)
    alone = (found_fractions(views) - wanted).abs().mean()
    helped = (found_fractions(replace(views, points=on_the_wall(views, depth, 4))) - wanted).abs().mean()
    assert helped < 0.6 * alone


def test_a_point_speaks_for_its_own_depth_and_place():
    views, depth = wall_views()
    points = on_the_wall(views, depth, 1)
    index = 10 * SIZE[1] + 20
    one = SparsePoints(points.positions[index : index + 1], points.colors[index : index + 1])
    evidence = point_evidence(replace(views, points=one), *bounds(views), NUM_DEPTHS, 1, SIZE, 1.5)
    assert evidence.shape == (3, NUM_DEPTHS, *SIZE)
    assert evidence.min() >= 0
    assert evidence.max() <= 1
    strongest = evidence[0].amax(0)
    assert divmod(int(strongest.argmax()), SIZE[1]) == (10, 20)
    assert not strongest[14:].any()  # further than twice the radius
    candidate = fractions_of(depth[0, 10, 20]) * (NUM_DEPTHS - 1)
    assert abs(int(evidence[0, :, 10, 20].argmax()) - float(candidate)) <= 0.5
    coarse = point_evidence(replace(views, points=one), *bounds(views), NUM_DEPTHS, 2, (16, 20), 1.5)
    assert divmod(int(coarse[0].amax(0).argmax()), 20) == (5, 10)


def test_a_point_behind_another_is_hidden():
    views, depth = wall_views()
    points = on_the_wall(views, depth, 1)
    center = views.cameras.centers[0]
    index = 10 * SIZE[1] + 20
    near = points.positions[index]
    far = center + 2.0 * (near - center)
    both = SparsePoints(torch.stack([near, far]), points.colors[:2])
    evidence = point_evidence(replace(views, points=both), *bounds(views), NUM_DEPTHS, 1, SIZE, 1.5)
    alone = SparsePoints(both.positions[:1], both.colors[:1])
    expected = point_evidence(replace(views, points=alone), *bounds(views), NUM_DEPTHS, 1, SIZE, 1.5)
    torch.testing.assert_close(evidence[0], expected[0])


def test_the_correction_leads_to_the_points_and_leaves_what_is_far_from_them():
    views, depth = wall_views()
    wanted = fractions_of(depth).float()
    spacing = 1 / (NUM_DEPTHS - 1)
    views = replace(views, points=on_the_wall(views, depth, 2))
    off = wanted + 0.6 * spacing
    corrected = off + point_correction(views, *bounds(views), off, NUM_DEPTHS)
    assert (corrected - wanted)[0].abs().mean() < 0.15 * (off - wanted)[0].abs().mean()
    # an outlier of the points, or of the network, is believed by neither
    far_off = wanted + 3.0 * spacing
    assert not point_correction(views, *bounds(views), far_off, NUM_DEPTHS).any()


def test_points_change_with_the_world():
    views, depth = wall_views(dtype=torch.float64)
    views = replace(views, points=on_the_wall(views, depth, 3))
    network, world = make_network(0.03).double(), moved_world()
    with torch.no_grad():
        here, there = network(views), network(world.apply_views(views))
    expected = world.apply_gaussians(here.gaussians)
    torch.testing.assert_close(there.gaussians.means, expected.means, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(there.gaussians.scales, expected.scales, rtol=1e-6, atol=1e-5)


def test_points_that_no_view_sees_change_nothing():
    views, _ = wall_views()
    behind = SparsePoints(torch.tensor([[0.0, 0.0, -30.0], [100.0, 0.0, 5.0]]), torch.full((2, 3), 0.5))
    network = make_network(0.03)
    with torch.no_grad():
        expected, actual = network(views), network(replace(views, points=behind))
    assert torch.equal(actual.gaussians.flatten(), expected.gaussians.flatten())
    assert torch.equal(actual.features, expected.features)


def test_gradients_reach_the_network_past_the_points():
    views, depth = wall_views()
    network = make_network(0.03)
    network(replace(views, points=on_the_wall(views, depth, 3))).gaussians.means.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.volume_head.parameters())
    assert any(p.grad.any() for p in network.volume_head.parameters() if p.grad is not None)


@pytest.mark.parametrize(("field", "value"), [("points", -1.0), ("points_radius", 0.0)])
def test_settings_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=field):
        MatchingConfig(**{field: value})


def test_a_similarity_takes_points_along():
    views, depth = wall_views(dtype=torch.float64)
    views = replace(views, points=on_the_wall(views, depth, 5))
    eye = torch.eye(3, dtype=torch.float64)
    moved = Similarity(torch.tensor(4.0).double(), eye, torch.ones(3).double()).apply_views(views)
    assert views.points is not None
    assert moved.points is not None
    torch.testing.assert_close(moved.points.positions, 4 * views.points.positions + 1)
    assert moved[1:].points is moved.points
    assert moved.to(dtype=torch.float32).points.positions.dtype == torch.float32
