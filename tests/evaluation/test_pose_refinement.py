# SPDX-License-Identifier: Apache-2.0
"""Target-pose optimisation: known offsets are recovered, nothing becomes worse, statuses say what happened."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from ns_diff3r import Cameras, DifferentiableTTO, Gaussians, TTOConfig, render
from ns_diff3r.data import PointCloud, gaussians_from_points, load_scene
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.evaluation.alignment import rotation_angles
from ns_diff3r.evaluation.pose_refinement import (
    PoseRefinement,
    PoseRefinementConfig,
    PoseStatus,
    mean_squared_error,
    moved,
    refine_poses,
)
from ns_diff3r.solver import BackwardMode, LearningRates
from ns_diff3r.splats.frames import Similarity, normalized_frame
from tests.conftest import shared_path

REAL = ["strecha_fountain", "lund_door", "redkitchen"]


def draw(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    return render(gaussians, cameras).rgb


def disturbed(cameras: Cameras, degrees: float, share: float, depth: float, seed: int = 0) -> Cameras:
    """Every camera turned by so many degrees and moved by a share of the depth, in random directions."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(2, cameras.num_views, 3, generator=random).double(), dim=-1)
    return moved(cameras, torch.cat([share * depth * directions[0], torch.pi / 180 * degrees * directions[1]], dim=1))


def median_depth(gaussians: Gaussians, cameras: Cameras) -> float:
    return 1.0 / float(normalized_frame(gaussians, cameras).scale)


def errors(cameras: Cameras, truth: Cameras, depth: float) -> tuple[float, float]:
    """Largest angle in degrees, and largest distance of centres relative to the depth."""
    relative = cameras.viewmats[:, :3, :3] @ truth.viewmats[:, :3, :3].transpose(1, 2)
    distances = (cameras.centers - truth.centers).norm(dim=-1) / depth
    return float(rotation_angles(relative.double()).max()), float(distances.max())


@pytest.fixture(scope="module")
def scene() -> tuple[Gaussians, Cameras, Tensor]:
    gaussians, cameras = pixel_aligned_scene(48, contributions_per_pixel=15.0, num_views=2)
    with torch.no_grad():
        return gaussians, cameras, draw(gaussians, cameras).clamp(0, 1)


def test_a_known_offset_is_recovered_on_a_generated_scene(scene):
    gaussians, cameras, images = scene
    depth = median_depth(gaussians, cameras)
    for degrees, share in ((1.0, 0.02), (3.0, 0.05)):
        start = disturbed(cameras, degrees, share, depth)
        found = refine_poses(gaussians, start, images, draw)
        angle, distance = errors(found.cameras, cameras, depth)
        print(
            f"generated: {degrees}° and {share} of the depth off -> {angle:.4f}°, {distance:.5f}; MSE "
            f"{float(found.loss_before.mean()):.1e} -> {float(found.loss_after.mean()):.1e}"
        )
        assert angle < 0.05
        assert distance < 1e-3
        assert (found.loss_after < 1e-3 * found.loss_before).all()
        assert PoseStatus.DIVERGED not in found.status


@pytest.mark.parametrize("name", REAL)
def test_a_known_offset_is_recovered_on_a_real_scene(name):
    """Gaussians fitted to all photographs; the cameras of three are disturbed and come back."""
    folder = shared_path("data", "dev", name)
    if not folder.is_dir():
        pytest.skip("real scenes are not at hand")
    real = load_scene(folder)
    views = real.views(range(min(real.num_frames, 12)), max_size=96)
    assert isinstance(real.points, PointCloud)
    rates = LearningRates(**{group: 8 * rate for group, rate in asdict(LearningRates()).items()})
    fit = DifferentiableTTO(TTOConfig(num_steps=60, learning_rates=rates, backward_mode=BackwardMode.NONE)).eval()
    gaussians, _ = fit(gaussians_from_points(real.points, max_gaussians=3000), None, views)
    chosen = views[torch.tensor([2, 5, 7])]
    depth = median_depth(gaussians, chosen.cameras)
    at_truth = refine_poses(gaussians, chosen.cameras, chosen.images, draw, PoseRefinementConfig(num_steps=0))
    found = refine_poses(gaussians, disturbed(chosen.cameras, 3.0, 0.05, depth), chosen.images, draw)
    angle, distance = errors(found.cameras, chosen.cameras, depth)
    print(
        f"{name}: 3° and 0.05 of the depth off -> {angle:.3f}°, {distance:.4f}; MSE "
        f"{float(found.loss_before.mean()):.1e} -> {float(found.loss_after.mean()):.1e}, at the given poses "
        f"{float(at_truth.loss_after.mean()):.1e}"
    )
    assert angle < 0.5
    assert distance < 0.01
    assert (found.loss_after < 1.02 * at_truth.loss_after).all()


def test_the_unit_of_the_world_does_not_matter(scene):
    gaussians, cameras, images = scene
    start = disturbed(cameras, 2.0, 0.03, median_depth(gaussians, cameras))
    larger = Similarity(torch.tensor(50.0), torch.eye(3), torch.zeros(3))
    config = PoseRefinementConfig(num_steps=15)
    first = refine_poses(gaussians, start, images, draw, config)
    second = refine_poses(larger.apply_gaussians(gaussians), larger.apply_cameras(start), images, draw, config)
    torch.testing.assert_close(second.loss_after, first.loss_after, rtol=1e-3, atol=0)


def test_views_do_not_influence_one_another(scene):
    """The second begins far away; the first ends where it ends alone. (The unit of length is that of both.)"""
    gaussians, cameras, images = scene
    start = disturbed(cameras, 1.0, 0.02, median_depth(gaussians, cameras))
    config = PoseRefinementConfig(num_steps=12)
    both = refine_poses(gaussians, start, images, draw, config)
    viewmats = torch.stack([start.viewmats[0], moved(start[1], torch.full((1, 6), 0.2)).viewmats[0]])
    other = refine_poses(gaussians, Cameras(viewmats, start.Ks, 48, 48), images, draw, config)
    torch.testing.assert_close(other.cameras.viewmats[0], both.cameras.viewmats[0], rtol=1e-5, atol=1e-6)


def test_no_view_ends_worse_than_it_began(scene):
    """Rates that overshoot at once: the start is kept, to the bit, and the status says so."""
    gaussians, cameras, images = scene
    wild = PoseRefinementConfig(num_steps=6, rotation_rate=0.5, translation_rate=0.5)
    found = refine_poses(gaussians, cameras, images * 0.98, draw, wild)
    assert found.status == (PoseStatus.DIVERGED,) * 2
    torch.testing.assert_close(found.cameras.viewmats, cameras.viewmats, rtol=0, atol=1e-7)
    assert torch.equal(found.loss_after, found.loss_before)


def test_what_is_not_finite_keeps_the_start_of_its_view_alone(scene):
    gaussians, cameras, images = scene
    start = disturbed(cameras, 1.0, 0.02, median_depth(gaussians, cameras))
    calls = []

    def loss(drawn: Tensor, truth: Tensor) -> Tensor:
        calls.append(1)
        values = mean_squared_error(drawn, truth)
        return torch.stack([values[0], values[1] * (float("nan") if len(calls) > 3 else 1.0)])

    found = refine_poses(gaussians, start, images, draw, PoseRefinementConfig(num_steps=30), loss)
    assert found.status == (PoseStatus.STEP_LIMIT, PoseStatus.DIVERGED)
    assert found.loss_after[0] < 0.1 * found.loss_before[0]
    assert found.loss_after.isfinite().all()
    assert found.cameras.viewmats.isfinite().all()


def test_a_view_that_sees_nothing_or_is_right_already_has_converged(scene):
    gaussians, cameras, images = scene
    behind = cameras.viewmats.clone()
    behind[:, :3] *= torch.tensor([-1.0, 1, -1])[:, None]  # turned round
    blind = refine_poses(gaussians, Cameras(behind, cameras.Ks, 48, 48), images, draw)
    assert blind.status == (PoseStatus.CONVERGED,) * 2
    assert blind.num_steps <= 1
    torch.testing.assert_close(blind.cameras.viewmats, behind)
    flat = PoseRefinementConfig(rotation_rate=0.0, translation_rate=0.0, patience=3)
    still = refine_poses(gaussians, cameras, 0.9 * images, draw, flat)
    assert (still.status, still.num_steps) == ((PoseStatus.CONVERGED,) * 2, 3)


def test_no_steps_leave_everything(scene):
    gaussians, cameras, images = scene
    found = refine_poses(gaussians, cameras, images, draw, PoseRefinementConfig(num_steps=0))
    assert isinstance(found, PoseRefinement)
    assert (found.num_steps, found.status) == (0, (PoseStatus.STEP_LIMIT,) * 2)
    torch.testing.assert_close(found.cameras.viewmats, cameras.viewmats, rtol=0, atol=1e-7)


def test_the_pivot_stays_where_it_is():
    _, cameras = pixel_aligned_scene(16, contributions_per_pixel=15.0, num_views=2)
    twists = torch.cat([torch.zeros(2, 3), torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, -0.3]])], dim=1).double()
    turned = moved(cameras, twists, pivot=2.0)
    point = torch.tensor([0.0, 0.0, 2.0, 1.0])
    for before, after in zip(cameras.viewmats, turned.viewmats, strict=True):
        torch.testing.assert_close(after @ torch.linalg.inv(before) @ point, point)
    assert errors(turned, cameras, 1.0)[1] > 0.1


def test_faults(scene):
    gaussians, cameras, images = scene
    with pytest.raises(ValueError, match="1 images for 2 cameras"):
        refine_poses(gaussians, cameras, images[:1], draw)
    with pytest.raises(ValueError, match="final_fraction"):
        PoseRefinementConfig(final_fraction=2.0)
    with pytest.raises(ValueError, match="rotation_rate"):
        PoseRefinementConfig(rotation_rate=float("nan"))
    with pytest.raises(ValueError, match="patience"):
        PoseRefinementConfig(patience=0)
