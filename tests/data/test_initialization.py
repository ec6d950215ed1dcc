# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from ns_diff3r.data import PointCloud, SceneError, gaussians_from_points, points_in_views
from ns_diff3r.data.initialization import neighbor_distances
from ns_diff3r.splats import Cameras


def cloud(count: int = 50, seed: int = 0) -> PointCloud:
    rng = np.random.default_rng(seed)
    return PointCloud(rng.normal(size=(count, 3)), rng.uniform(size=(count, 3)))


def test_gaussians_carry_position_colour_and_opacity():
    points = cloud()
    gaussians = gaussians_from_points(points, sh_degree=2, opacity=0.2, dtype=torch.float64)
    assert gaussians.sh_degree == 2
    torch.testing.assert_close(gaussians.means, torch.from_numpy(points.points))
    torch.testing.assert_close(0.5 + gaussians.sh0[:, 0] / (2 * np.sqrt(np.pi)), torch.from_numpy(points.colors))
    torch.testing.assert_close(gaussians.opacities_activated, torch.full((50,), 0.2).double())
    assert not gaussians.shN.any()


def test_scales_are_distances_to_the_nearest_points():
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3).double()
    torch.testing.assert_close(neighbor_distances(0.1 * grid, 3), torch.full((64,), 0.1).double())
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 5]]).double()
    assert neighbor_distances(points, 2)[0] == pytest.approx(np.sqrt((1 + 4) / 2))
    assert neighbor_distances(points, 9)[0] == pytest.approx(np.sqrt((1 + 4 + 25) / 3))  # fewer points than asked for


def test_chunks_do_not_change_distances(monkeypatch):
    points = torch.from_numpy(cloud(100).points)
    whole = neighbor_distances(points, 3)
    monkeypatch.setattr("ns_diff3r.data.initialization.KNN_CHUNK", 7)
    torch.testing.assert_close(neighbor_distances(points, 3), whole, rtol=0, atol=0)


def test_coinciding_points_get_a_positive_scale():
    points = torch.tensor([[0.0, 0, 0]] * 4 + [[1, 0, 0], [2, 0, 0], [3, 0, 0]]).double()
    assert (neighbor_distances(points, 3) > 0).all()
    assert (neighbor_distances(points[:4], 3) > 0).all()


def test_a_subset_and_rotations_follow_the_seed():
    first, again, other = (
        gaussians_from_points(cloud(), max_gaussians=20, random_rotations=True, seed=s) for s in (1, 1, 2)
    )
    assert first.num_gaussians == 20
    torch.testing.assert_close(first.flatten(), again.flatten(), rtol=0, atol=0)
    assert not torch.equal(first.means, other.means)
    torch.testing.assert_close(first.quats.norm(dim=-1), torch.ones(20))
    assert first.scales.mean() > gaussians_from_points(cloud()).scales.mean()  # a thinner cloud, wider Gaussians


def test_too_few_points():
    with pytest.raises(SceneError, match="at least two points, got 1"):
        gaussians_from_points(cloud(1))


def test_points_in_views():
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[10.0, 0, 5], [0, 10, 5], [0, 0, 1]]]), 10, 10)
    points = np.array([[0, 0, 1.0], [0.4, 0, 1], [0.6, 0, 1], [0, 0, -1]])
    inside = points_in_views(PointCloud(points, np.zeros_like(points)), camera)
    assert inside.tolist() == [True, True, False, False]


def test_some_of_the_points_keep_the_sizes_that_all_give_them():
    points, only = cloud(), torch.zeros(50, dtype=torch.bool)
    only[[3, 20, 49]] = True
    everyone, some = gaussians_from_points(points), gaussians_from_points(points, only=only)
    assert torch.equal(some.flatten(), everyone[only].flatten())
    with pytest.raises(ValueError, match="not both"):
        gaussians_from_points(points, only=only, max_gaussians=3)
