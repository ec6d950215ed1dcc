# SPDX-License-Identifier: Apache-2.0
"""The computed parts of the compact backbone, against direct formulas."""

import pytest
import torch

from ns_diff3r.backbones import tiny_config
from ns_diff3r.backbones.compact_backdrop import BORDER, DISTANCE, to_cells
from ns_diff3r.backbones.compact_geometry import SweepGeometry, nearest_views, sample, sweep_geometry
from ns_diff3r.backbones.compact_matching import MatchingConfig, box_filter, consistency, photometric_logits
from ns_diff3r.backbones.compact_resolution import Resolution
from ns_diff3r.splats import Cameras, Views
from tests.backbones.scene_views import wall_views

NEAR, FAR = torch.tensor([2.0, 1.5, 3.0]).double(), torch.tensor([12.0, 20.0, 9.0]).double()


def wall_geometry() -> tuple[Views, torch.Tensor, SweepGeometry]:
    """Views with a depth range each, the wall's inverse depths as fractions, and the geometry at full resolution."""
    views, depth = wall_views(dtype=torch.float64)
    low, high = (1 / FAR)[:, None, None], (1 / NEAR)[:, None, None]
    fractions = (1 / depth - low) / (high - low)
    return views, fractions, sweep_geometry(views, NEAR, FAR, 2, 1, (32, 40), torch.float64)


def test_projection_is_that_of_the_cameras():
    views, fractions, geometry = wall_geometry()
    cameras = views.cameras
    pixel = torch.tensor([13.5, 9.5, 1.0]).double()  # column 13, row 9
    for view in range(3):
        positions, inside, inverse_depth = geometry.project(view, fractions[view][None])
        found = geometry.neighbor_fractions(view, inverse_depth)
        z = 1 / (1 / FAR[view] + fractions[view, 9, 13] * (1 / NEAR[view] - 1 / FAR[view]))
        local = z * torch.linalg.inv(cameras.Ks[view]) @ pixel
        world = cameras.viewmats[view, :3, :3].T @ (local - cameras.viewmats[view, :3, 3])
        for slot, other in enumerate(geometry.neighbors[view].tolist()):
            seen = cameras.viewmats[other, :3, :3] @ world + cameras.viewmats[other, :3, 3]
            u, v, _ = cameras.Ks[other] @ seen / seen[2]
            expected = torch.stack([2 * u / 40 - 1, 2 * v / 32 - 1])
            torch.testing.assert_close(positions[slot, 0, 9, 13], expected)
            assert inside[slot, 0, 9, 13] == bool((expected.abs() < 1).all())
            fraction = (1 / seen[2] - 1 / FAR[other]) / (1 / NEAR[other] - 1 / FAR[other])
            torch.testing.assert_close(found[slot, 0, 9, 13], fraction)


def test_colours_agree_where_the_depth_is_right():
    views, fractions, geometry = wall_geometry()
    images = views.images.permute(0, 3, 1, 2)
    positions, inside, _ = geometry.project(0, fractions[0][None])
    difference = (sample(images[geometry.neighbors[0]], positions)[:, :, 0] - images[0]).abs().mean(1)
    assert difference[inside[:, 0]].mean() < 0.01


def test_points_behind_a_camera_are_outside():
    views, _, _ = wall_geometry()
    viewmats = views.cameras.viewmats.clone()
    viewmats[1, [0, 2]] *= -1
    views = Views(views.images, Cameras(viewmats, views.cameras.Ks, 40, 32))
    geometry = sweep_geometry(views, NEAR, FAR, 2, 1, (32, 40), torch.float64)
    slot = geometry.neighbors[0].tolist().index(1)
    inside = geometry.project(0, torch.full((1, 1, 1), 0.5).double()).inside
    assert not inside[slot].any()
    assert inside[1 - slot].any()


def test_points_behind_a_camera_on_its_axis_are_outside():
    viewmats = torch.eye(4).double().repeat(2, 1, 1)
    viewmats[1, 2, 3] = -20.0  # 20 units ahead, beyond all candidates
    views, _ = wall_views(num_views=2, size=(33, 41), dtype=torch.float64)
    K = views.cameras.Ks.clone()
    K[:, 0, 2], K[:, 1, 2] = 20.5, 16.5  # a pixel's centre, and the image's
    views = Views(views.images, Cameras(viewmats, K, 41, 33))
    geometry = sweep_geometry(views, NEAR[:2], FAR[:2], 1, 1, (33, 41), torch.float64)
    assert not geometry.project(0, torch.linspace(0.5, 1, 3).double()[:, None, None]).inside.any()


def test_candidates_gain_where_other_views_agree_and_lose_where_they_hide():
    views, fractions, geometry = wall_geometry()
    images = views.images.permute(0, 3, 1, 2).contiguous()

    def logits(support: float, conflict: float) -> torch.Tensor:
        return photometric_logits(images, geometry, 32, MatchingConfig(rounds=1, support=support, conflict=conflict))

    alone = logits(0.0, 0.0)
    gain, loss = logits(15.0, 0.0) - alone, alone - logits(0.0, 5.0)
    true = (31 * fractions[:, 8:24, 10:30]).round().long()
    at_truth = gain[:, :, 8:24, 10:30].gather(1, true[:, None])[:, 0]
    assert (gain > -1e-9).all()
    assert at_truth.median() > 10
    beyond = gain[:, :, 8:24, 10:30].gather(1, (true - 6).clamp(min=0)[:, None])[:, 0]
    assert beyond.median() < 1
    in_front = loss[:, :, 8:24, 10:30].gather(1, (true + 8).clamp(max=31)[:, None])[:, 0]
    assert in_front.median() > 4
    assert loss[:, :, 8:24, 10:30].gather(1, true[:, None]).median() < 0.5


def test_consistency_of_right_and_wrong_depths():
    _, fractions, geometry = wall_geometry()
    sure = torch.ones_like(fractions)
    right = consistency(fractions, sure, geometry, 32)
    inner = (slice(None), slice(8, 24), slice(10, 30))
    torch.testing.assert_close(right.support[inner], right.seen[inner], rtol=0, atol=0.05)
    assert right.conflict[inner].max() < 0.05
    moved = fractions.clone()
    moved[0] += 6 / 31  # six candidates nearer: hides the wall from the others
    wrong = consistency(moved, sure, geometry, 32)
    assert wrong.support[0, 8:24, 10:30].max() < 0.01
    assert wrong.conflict[0, 12:20, 15:25].mean() > 0.8
    assert (right.parallax[inner] > 0).all()


def test_box_filter():
    maps = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    padded = torch.nn.functional.pad(maps, (2, 2, 2, 2), mode="replicate")
    torch.testing.assert_close(box_filter(maps, 2), torch.nn.functional.avg_pool2d(padded, 5, stride=1))
    assert box_filter(maps, 0) is maps


def test_nearest_views_know_position_and_direction():
    viewmats = torch.eye(4).double().repeat(4, 1, 1)
    viewmats[:, 0, 3] = -torch.tensor([0.0, 1.0, 3.0, 0.1]).double()
    viewmats[3, [0, 2]] *= -1  # nearly at view 0, looking the other way
    assert nearest_views(viewmats, 1)[0].tolist() == [1]
    assert nearest_views(viewmats, 9).shape == (4, 3)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_resolutions_keep_the_corner_where_it_is(stride):
    at = Resolution.of(19, 37, stride)
    assert (at.padded, at.quarter) == ((32, 48), (8, 12))
    ramp = torch.arange(37.0).expand(1, 1, 19, 37)
    padded = at.image_to_padded(ramp)
    torch.testing.assert_close(padded[..., :19, :37], ramp)
    torch.testing.assert_close(padded[..., 37:], torch.full((1, 1, 32, 11), 36.0))
    small = at.image_to_matching(ramp)
    assert small.shape[-2:] == at.matching
    torch.testing.assert_close(small[0, 0, 0, :4], stride * torch.arange(4.0) + (stride - 1) / 2)
    back = at.matching_to_image(small)
    torch.testing.assert_close(back[..., 8:24], ramp[..., 8:24])
    quarter = at.matching_to_quarter(small)
    assert quarter.shape[-2:] == at.quarter
    torch.testing.assert_close(quarter[0, 0, 0, :8], 4 * torch.arange(8.0) + 1.5)
    torch.testing.assert_close(
        at.quarter_to_matching(quarter)[..., 8 // stride : 24 // stride], small[..., 8 // stride : 24 // stride]
    )


def test_matching_resolution_follows_the_image():
    assert [Resolution.of(side, 40).matching_stride for side in (96, 97, 192, 193, 2000)] == [1, 2, 2, 4, 4]


@torch.no_grad()
def test_the_backdrop_hangs_behind_its_view():
    views, _ = wall_views(num_views=2, dtype=torch.float64)
    torch.manual_seed(0)
    backdrop = tiny_config(num_depths=8).setup().double()(views).gaussians[2 * 32 * 40 :]
    cells = to_cells(views.images.permute(0, 3, 1, 2))
    rows, columns = cells.shape[-2:]
    assert (rows, columns) == (6 + 2 * BORDER, 8 + 2 * BORDER)
    assert backdrop.num_gaussians == 2 * rows * columns
    means = backdrop.means.view(2, rows, columns, 3)
    local = (
        torch.einsum("vij,vrcj->vrci", views.cameras.viewmats[:, :3, :3], means)
        + views.cameras.viewmats[:, None, None, :3, 3]
    )
    assert views.far is not None
    torch.testing.assert_close(local[..., 2], (DISTANCE * views.far)[:, None, None].expand(2, rows, columns))
    pixels = torch.einsum("vij,vrcj->vrci", views.cameras.Ks, local / local[..., 2:])
    # Cell (BORDER, BORDER) is the photograph's upper left one: 40/8 by 32/6 pixels.
    torch.testing.assert_close(pixels[0, BORDER, BORDER, :2], torch.tensor([2.5, 32 / 12]).double())
    torch.testing.assert_close(
        pixels[0, 0, 0, :2], torch.tensor([2.5 - 5 * BORDER, 32 / 12 - 32 / 6 * BORDER]).double()
    )
    torch.testing.assert_close(0.5 + 0.28209479177 * backdrop.sh0.view(2, rows, columns, 3), cells.permute(0, 2, 3, 1))


@torch.no_grad()
def test_views_that_show_the_same_surface_share_its_opacity():
    views, _ = wall_views(num_views=3)
    torch.manual_seed(0)
    network = tiny_config().setup()
    prediction = network(views)
    opacities = prediction.gaussians.opacities_activated[: 3 * 32 * 40]
    support = prediction.features[: 3 * 32 * 40, -4]
    assert opacities[support > 0.9].max() < opacities[support < 0.1].max()
    assert abs(float(opacities.max()) - network.config.opacity) < 0.02  # pyright: ignore[reportAttributeAccessIssue]
