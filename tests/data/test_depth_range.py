# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from ns_diff3r.data import Frame, Intrinsics, PointCloud, load_scene
from ns_diff3r.data.depth_range import FAR_MARGIN, NEAR_MARGIN, depth_ranges

INTRINSICS = Intrinsics(50.0, 50.0, 30.0, 20.0, 60, 40)


def frame_at(position, forward=(0.0, 0.0, -1.0)) -> Frame:
    back = -np.array(forward) / np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = position
    return Frame(Path("a.png"), pose, INTRINSICS)


def cloud(positions) -> PointCloud:
    positions = np.array(positions, dtype=np.float64).reshape(-1, 3)
    return PointCloud(positions, np.zeros_like(positions))


def slab(count=2000, low=2.0, high=6.0, seed=0):
    """Points in front of a camera at the origin, evenly in depth, within its image."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(low, high, count)
    return np.stack([0.4 * depth * rng.uniform(-1, 1, count), 0.3 * depth * rng.uniform(-1, 1, count), -depth], axis=1)


def test_quantiles_of_the_points_in_the_image():
    outside = [[50.0, 0.0, -0.5], [-50.0, 0.0, -0.5], [0.0, 50.0, -0.5], [0.0, -50.0, -0.5]] * 500
    behind = [[0.0, 0.0, 1.0]] * 500
    near, far = depth_ranges([frame_at((0, 0, 0))], cloud([*slab(), *outside, *behind]))
    assert near[0] == pytest.approx(NEAR_MARGIN * 2.04, rel=0.01)
    assert far[0] == pytest.approx(FAR_MARGIN * 5.96, rel=0.01)


def test_a_few_wrong_points_do_not_count():
    wrong = [[0.0, 0.0, -0.01]] * 5 + [[0.0, 0.0, -1e6]] * 5
    near, far = depth_ranges([frame_at((0, 0, 0))], cloud([*slab(), *wrong]))
    assert near[0] > 1.4
    assert far[0] < 9.1


def test_a_view_without_points_takes_those_before_it_or_the_range_of_the_others():
    frames = [frame_at((0, 0, 0)), frame_at((0, 0, 0), (0.6, 0, -0.8)), frame_at((0, 0, 0), (0, 0.1, 1))]
    points = slab()
    points = points[points[:, 0] < 0]  # the second camera sees none, and the third looks away
    near, far = depth_ranges(frames, cloud(points))
    assert (near > 0).all()
    assert (near < far).all()
    assert far[2] == pytest.approx(np.median(far[:2]))


def test_cameras_around_an_object():
    angles = np.linspace(0, np.pi, 7)
    frames = [frame_at((4 * np.cos(a), 1, 4 * np.sin(a)), (-4 * np.cos(a), -1, -4 * np.sin(a))) for a in angles]
    near, far = depth_ranges(frames)
    assert (near < 3).all()
    assert (far > 6).all()
    assert (far / near < 20).all()


@pytest.mark.parametrize("forward", [(0, 0, -1), (0.01, 0, -1)])
def test_parallel_cameras(forward):
    frames = [frame_at((0.1 * i, 0, 0), forward) for i in range(5)]
    near, far = depth_ranges(frames)
    assert near == pytest.approx(near[0])
    assert 0 < near[0] < 0.4 < far[0]


def test_cameras_that_look_outward_have_no_common_point():
    frames = [frame_at((np.cos(a), 0, np.sin(a)), (np.cos(a), 0, np.sin(a))) for a in np.linspace(0, 6, 9)]
    near, far = depth_ranges(frames)
    assert (near > 0).all()
    assert (far > 2).all()


@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e4])
def test_ranges_scale_with_the_world(scale):
    for points in (slab(), None):
        frames = [frame_at((0.2 * i, 0, 0), (-0.05 * i, 0, -1)) for i in range(4)]
        scaled = [frame_at((scale * 0.2 * i, 0, 0), (-0.05 * i, 0, -1)) for i in range(4)]
        plain = depth_ranges(frames, None if points is None else cloud(points))
        large = depth_ranges(scaled, None if points is None else cloud(scale * points))
        np.testing.assert_allclose(np.array(large), scale * np.array(plain), rtol=1e-9)


def test_nothing_is_known_of_one_photograph():
    assert depth_ranges([frame_at((0, 0, 0))]) is None
    assert depth_ranges([frame_at((0, 0, 0))], cloud([[0, 0, -1]])) is None  # one point says nothing either


def test_flat_scenes_have_a_range():
    near, far = depth_ranges([frame_at((0, 0, 0))], cloud(slab(low=3.0, high=3.0)))
    assert near[0] < 3 < far[0]


def test_ranges_without_points_hold_those_with_points_on_real_scenes(dev_scenes):
    """Most sparse points of most views lie within the range that the cameras alone give."""
    shares = []
    for folder in sorted(path.parent for path in dev_scenes.glob("*/transforms.json")):
        scene = load_scene(folder)
        assert scene.points is not None
        points_near, points_far = depth_ranges(scene.frames, scene.points)
        near, far = depth_ranges(scene.frames)
        inside = (near < points_near / NEAR_MARGIN) & (far > points_far / FAR_MARGIN)
        shares.append(inside.mean())
        assert (far / near <= 150).all()
    assert np.mean(shares) > 0.9, shares
