# SPDX-License-Identifier: Apache-2.0
"""What is done to context photographs to see how robust a method is."""

from dataclasses import replace

import pytest
import torch

from ns_diff3r.data.batches import SceneBatch
from ns_diff3r.evaluation.corruptions import (
    CORRUPTIONS,
    GAMMA,
    OCCLUDER_SIDE,
    STOPS,
    TINT,
    CorruptionName,
    corrupted,
    moved_cameras,
)
from tests.backbones.scene_views import wall_views


@pytest.fixture
def batch() -> SceneBatch:
    views, _ = wall_views(num_views=5, size=(20, 30))
    views = replace(views, images=0.2 + 0.4 * views.images)
    return SceneBatch("wall", views[:3], views[3:], 0, (0, 1, 2), (3, 4))


def changed_views(batch: SceneBatch, other: SceneBatch) -> list[int]:
    different = (batch.context.images != other.context.images).flatten(1).any(1)
    return different.nonzero().flatten().tolist()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_for_everyone_and_no_more_than_said(batch, name):
    first, second = corrupted(batch, name), corrupted(batch, name)
    torch.testing.assert_close(first.context.images, second.context.images, rtol=0, atol=0)
    torch.testing.assert_close(first.context.cameras.viewmats, second.context.cameras.viewmats, rtol=0, atol=0)
    assert first.targets is batch.targets
    assert len(changed_views(batch, first)) == (0 if name == "poses" else 1)
    moved = not torch.equal(first.context.cameras.viewmats, batch.context.cameras.viewmats)
    assert moved == (name == "poses")
    seen = set()
    for seed in range(12):
        other = corrupted(batch, name, seed)
        seen.update(changed_views(batch, other))
    assert seen == (set() if name == "poses" else {0, 1, 2})
    none = corrupted(batch, name, severity=0.0)
    torch.testing.assert_close(none.context.images, batch.context.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(none.context.cameras.viewmats, batch.context.cameras.viewmats, atol=1e-5, rtol=0)


def test_light_is_what_changes(batch):
    gains: dict[CorruptionName, set[tuple[float, ...]]] = {"exposure": set(), "tint": set()}
    for name, found in gains.items():
        for seed in range(8):
            other = corrupted(batch, name, seed)
            (view,) = changed_views(batch, other)
            light = (other.context.images[view] / batch.context.images[view]) ** GAMMA
            inside = (other.context.images[view] < 1).all(-1)
            ratio = light[inside].mean(0)
            torch.testing.assert_close(light[inside], ratio.expand_as(light[inside]), rtol=1e-3, atol=0)
            found.add(tuple(round(float(value), 3) for value in ratio))
    up, tint = 2.0**STOPS, 1.0 + TINT
    assert gains["exposure"] == {(round(up, 3),) * 3, (round(1 / up, 3),) * 3}
    assert gains["tint"] == {(round(tint, 3), 1.0, round(1 / tint, 3)), (round(1 / tint, 3), 1.0, round(tint, 3))}


def test_an_occluder_is_a_rectangle_of_one_colour(batch):
    other = corrupted(batch, "occluder")
    (view,) = changed_views(batch, other)
    rows, columns = (batch.context.images[view] != other.context.images[view]).any(-1).nonzero().unbind(1)
    assert int(rows.max() - rows.min()) + 1 == round(20 * OCCLUDER_SIDE)
    assert int(columns.max() - columns.min()) + 1 == round(30 * OCCLUDER_SIDE)
    inside = other.context.images[view][rows, columns]
    torch.testing.assert_close(inside, inside[:1].expand_as(inside), rtol=0, atol=0)


def test_cameras_turn_and_move_by_what_was_asked():
    cameras = wall_views(num_views=3, size=(20, 30), dtype=torch.float64)[0].cameras
    moved = moved_cameras(cameras, 2.0, 0.05, torch.Generator().manual_seed(1))
    relative = moved.viewmats[:, :3, :3] @ cameras.viewmats[:, :3, :3].mT
    angles = torch.rad2deg(torch.acos((relative.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2))
    torch.testing.assert_close(angles, torch.full_like(angles, 2.0), rtol=1e-6, atol=0)
    spread = torch.nn.functional.pdist(cameras.centers).mean()
    shifts = (moved.centers - cameras.centers).norm(dim=1)
    torch.testing.assert_close(shifts, torch.full_like(shifts, float(0.05 * spread)), rtol=1e-6, atol=0)
    alone = moved_cameras(cameras[:1], 2.0, 0.05, torch.Generator().manual_seed(1))
    torch.testing.assert_close(alone.centers, cameras[:1].centers, rtol=0, atol=1e-9)


def test_what_makes_no_sense_is_named(batch):
    with pytest.raises(ValueError, match="no corruption 'fog'"):
        corrupted(batch, "fog")  # pyright: ignore[reportArgumentType]
    for severity in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="severity"):
            corrupted(batch, "tint", severity=severity)
