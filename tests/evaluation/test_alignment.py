# SPDX-License-Identifier: Apache-2.0
"""Similarities between two worlds of the same cameras: known ones are found, degenerate cases are defined."""

import math

import pytest
import torch
from torch import Tensor

from ns_diff3r import Cameras
from ns_diff3r.backbones.depth_anything_3.alignment import aligning_similarity
from ns_diff3r.data import load_scene
from ns_diff3r.evaluation.alignment import align_cameras, rotation_angles, umeyama
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.rotations import quats_to_rotations
from tests.conftest import shared_path
from tests.scenes import make_cameras

REAL = ["banana", "redkitchen", "strecha_fountain", "llff_flower"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_similarity(seed: int = 0) -> Similarity:
    random = generator(seed)
    quats = torch.randn(4, generator=random, dtype=torch.float64)
    scale = torch.exp(torch.randn((), generator=random, dtype=torch.float64))
    return Similarity(scale, quats_to_rotations(quats), 5 * torch.randn(3, generator=random, dtype=torch.float64))


def standing_at(centers: Tensor, seed: int = 0) -> Cameras:
    """Cameras of random orientation at these points."""
    count = len(centers)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    viewmats[:, :3, :3] = quats_to_rotations(torch.randn(count, 4, generator=generator(seed), dtype=torch.float64))
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ centers.double()[:, :, None])[:, :, 0]
    K = torch.tensor([[20.0, 0, 8], [0, 20.0, 8], [0, 0, 1]], dtype=torch.float64)
    return Cameras(viewmats, K.repeat(count, 1, 1), 16, 16)


def assert_same(found: Similarity, expected: Similarity, tolerance: float = 1e-9) -> None:
    for name in ("scale", "rotation", "translation"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [3, 4, 10])
def test_umeyama_finds_a_known_similarity(count):
    points = torch.randn(count, 3, generator=generator(count), dtype=torch.float64)
    expected = a_similarity(count)
    assert_same(umeyama(points, expected.apply_points(points)), expected)


def test_umeyama_is_the_best_fit_to_noisy_points():
    """No nearby similarity has a smaller residual."""
    points = torch.randn(12, 3, generator=generator(1), dtype=torch.float64)
    target = a_similarity(3).apply_points(points) + 0.3 * torch.randn(12, 3, generator=generator(2)).double()
    best = umeyama(points, target)

    def residual(scale: Tensor, rotation: Tensor, translation: Tensor) -> float:
        return float((Similarity(scale, rotation, translation).apply_points(points) - target).square().sum())

    least = residual(best.scale, best.rotation, best.translation)
    for seed in range(20):
        step = 1e-3 * torch.randn(7, generator=generator(seed), dtype=torch.float64)
        turn = quats_to_rotations(torch.cat([torch.ones(1, dtype=torch.float64), step[:3]]))
        assert residual(best.scale * (1 + step[3]), turn @ best.rotation, best.translation + step[4:]) > least
    assert float(umeyama(points, target, with_scale=False).scale) == 1.0


def test_umeyama_never_mirrors():
    points = torch.randn(6, 3, generator=generator(4), dtype=torch.float64)
    found = umeyama(points, points * torch.tensor([-1.0, 1, 1]))
    assert torch.linalg.det(found.rotation) > 0.99


@pytest.mark.parametrize(
    ("points", "where"),
    [
        (torch.tensor([[0.0, 0, 0], [1, 2, 3]]), "on a line"),
        (torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, 4.0]]), "on a line"),
        (torch.ones(3, 3), "at one point"),
    ],
)
def test_umeyama_refuses_what_determines_no_rotation(points, where):
    with pytest.raises(ValueError, match=where):
        umeyama(points, torch.randn(len(points), 3, generator=generator(0)))


LINE = torch.tensor([[0.0, 0, 0], [1, 2, -1], [3, 6, -3], [2, 4, -2]])


@pytest.mark.parametrize("rotation_from", ["cameras", "centers"])
@pytest.mark.parametrize(
    ("centers", "dimension"),
    [
        (torch.randn(5, 3, generator=generator(5)), 3),
        (torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]), 2),
        (LINE, 1),
        (LINE[:2], 1),
    ],
)
def test_cameras_are_aligned_by_a_known_similarity(centers, dimension, rotation_from):
    """Four views in space, in a plane and on a line, and two views."""
    for seed in range(8):
        cameras, expected = standing_at(centers, seed), a_similarity(seed)
        found = align_cameras(cameras, expected.apply_cameras(cameras), rotation_from)
        assert found.dimension == dimension
        by_centers = "centers" if dimension > 1 else "line and cameras"
        assert found.settled_by == ("cameras" if rotation_from == "cameras" else by_centers)
        assert_same(found.similarity, expected)
        assert found.center_error < 1e-9
        assert found.angle_error < 1e-6


@pytest.mark.parametrize("rotation_from", ["cameras", "centers"])
def test_cameras_at_one_place_keep_the_size_and_turn_by_their_axes(rotation_from):
    cameras = standing_at(torch.tensor([[1.0, 2, 3]]).expand(3, 3))
    other = standing_at(torch.tensor([[7.0, 0, 1]]).expand(3, 3))  # equal axes at another place
    found = align_cameras(cameras, other, rotation_from)
    assert (found.dimension, found.settled_by, float(found.similarity.scale)) == (0, "cameras", 1.0)
    torch.testing.assert_close(found.similarity.rotation, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.similarity.translation, torch.tensor([6.0, -2, -2], dtype=torch.float64))
    assert math.isnan(found.center_error)
    one = align_cameras(cameras[0], a_similarity(2).apply_cameras(other[0]), rotation_from)
    assert one.angle_error < 1e-6


def test_on_a_line_the_line_is_kept_and_the_turn_about_it_fits_the_axes():
    """With disturbed axes: the line is exact, and no other turn about it fits them better."""
    cameras = standing_at(LINE)
    noise = quats_to_rotations((torch.eye(4)[0] + 0.2 * torch.randn(4, 4, generator=generator(7))).double())
    expected = a_similarity(1)
    given = expected.apply_cameras(cameras)
    axes = given.viewmats.clone()
    axes[:, :3, :3] = noise @ axes[:, :3, :3]
    axes[:, :3, 3] = -(axes[:, :3, :3] @ given.centers[:, :, None])[:, :, 0]
    disturbed = Cameras(axes, given.Ks, 16, 16)
    found = align_cameras(cameras, disturbed, "centers")
    assert found.center_error < 1e-9
    direction = torch.nn.functional.normalize(given.centers[1] - given.centers[0], dim=0)

    def fit(rotation: Tensor) -> float:
        relative = axes[:, :3, :3] @ rotation @ cameras.viewmats[:, :3, :3].transpose(1, 2)
        return float(relative.diagonal(dim1=1, dim2=2).sum())

    best = fit(found.similarity.rotation)
    for angle in torch.linspace(-3, 3, 61):
        half = torch.cat([torch.cos(angle / 2)[None].double(), torch.sin(angle / 2) * direction])
        assert fit(quats_to_rotations(half) @ found.similarity.rotation) <= best + 1e-9


def test_opposite_lines_are_turned_round():
    cameras = standing_at(torch.tensor([[0.0, 0, 0], [1, 0, 0]]))
    other = standing_at(torch.tensor([[0.0, 0, 0], [-2, 0, 0]]))
    found = align_cameras(cameras, other, "centers")
    assert torch.linalg.det(found.similarity.rotation) > 0.99
    assert found.center_error < 1e-9
    assert float(found.similarity.scale) == pytest.approx(2.0)


def test_contradicting_cameras_give_a_proper_similarity():
    for seed in range(30):
        first = standing_at(torch.randn(3, 3, generator=generator(seed)), seed)
        second = standing_at(torch.randn(3, 3, generator=generator(seed + 99)), seed + 99)
        for rotation_from in ("cameras", "centers"):
            found = align_cameras(first, second, rotation_from).similarity
            assert float(found.scale) > 0
            torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones((), dtype=torch.float64))


def test_cameras_that_do_not_match_are_refused():
    cameras = make_cameras(3, (8, 8), generator(0))
    with pytest.raises(ValueError, match="3 cameras cannot be matched with 2"):
        align_cameras(cameras, cameras[:2])


def test_angles():
    quats = torch.tensor([[math.cos(a / 2), 0, math.sin(a / 2), 0] for a in (0.0, 1e-6, 1.0, 3.1)]).double()
    expected = torch.rad2deg(torch.tensor([0.0, 1e-6, 1.0, 3.1]).double())
    torch.testing.assert_close(rotation_angles(quats_to_rotations(quats)), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", REAL)
def test_real_cameras_in_another_world_are_brought_back(name):
    """By the training similarity and by both of evaluation: float32 cameras of a real scene, with and without noise of
    half a degree and 2 % of the spread. What is found is composed with what was done; the rest is the error."""
    folder = shared_path("data", "dev", name)
    if not folder.is_dir():
        pytest.skip("real scenes are not at hand")
    scene, world = load_scene(folder), a_similarity(3)
    methods = {
        "training similarity": lambda source, target: aligning_similarity(target.viewmats, source.viewmats),
        "from cameras": lambda source, target: align_cameras(source, target, "cameras").similarity,
        "from centres": lambda source, target: align_cameras(source, target, "centers").similarity,
    }
    for count in (2, 4, min(scene.num_frames, 12)):
        cameras = scene.cameras(range(count), max_size=96)
        there = world.apply_cameras(cameras.to(dtype=torch.float64)).to(dtype=torch.float32)
        for method, align in methods.items():
            exact, noisy = (remainder(align(source, cameras), world) for source in (there, disturbed(there, count)))
            print(
                f"{name}, {count} views, {method}: scale off by {exact[0]:.1e}, {exact[1]:.1e}°; from noisy poses "
                f"{noisy[0]:.1e}, {noisy[1]:.2f}°"
            )
            assert exact[0] < 1e-4
            assert exact[1] < 0.02
            assert noisy[0] < 0.1
            assert noisy[1] < (3.0 if method != "from centres" else 20.0)


def remainder(found: Similarity, world: Similarity) -> tuple[float, float]:
    """Relative error of the scale, and angle in degrees, of what should undo `world`."""
    whole = found.compose(world)
    return abs(float(whole.scale) - 1), float(rotation_angles(whole.rotation[None])[0])


def disturbed(cameras: Cameras, seed: int) -> Cameras:
    """Cameras turned by about half a degree and moved by 2 % of their spread."""
    spread = (cameras.centers - cameras.centers.mean(0)).norm(dim=-1).mean()
    noise = torch.randn(cameras.num_views, 6, generator=generator(seed))
    turns = quats_to_rotations(torch.cat([torch.ones(cameras.num_views, 1), 0.005 * noise[:, :3]], dim=1))
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, :3] = turns @ viewmats[:, :3, :3]
    centers = cameras.centers + 0.02 * spread * noise[:, 3:]
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ centers[:, :, None])[:, :, 0]
    return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)
