# SPDX-License-Identifier: Apache-2.0
"""Gaussians for sparse points that no context view sees."""

from dataclasses import replace

import pytest
import torch

from ns_diff3r import Views
from ns_diff3r.splats import SparsePoints
from ns_diff3r.training.inference import evaluation_layer, reconstruct
from ns_diff3r.training.step import TrainingModule
from ns_diff3r.training.unseen_points import unseen_points
from tests.training.doubles import make_batch, make_config, make_network


def points_of(context: Views, depth: float, pixels: list[tuple[float, float]], view: int = 0) -> torch.Tensor:
    """World positions at a depth before one view."""
    cameras = context.cameras
    rays = torch.tensor([[u, v, 1.0] for u, v in pixels]) @ torch.linalg.inv(cameras.Ks[view]).T
    return (depth * rays - cameras.viewmats[view, :3, 3]) @ cameras.viewmats[view, :3, :3]


@pytest.fixture
def context() -> Views:
    return make_batch().context


def cloud(context: Views) -> SparsePoints:
    """One point that the first view sees, three far to the side, two far behind the surface (which ends at 5)."""
    width, height = context.cameras.width, context.cameras.height
    seen = points_of(context, 2.0, [(width / 2, height / 2)])
    aside = points_of(context, 3.0, [(50 * width, 0.0), (51 * width, 3.0), (-60 * width, 1.0)])
    behind = points_of(context, 400.0, [(width / 2, height / 2), (width / 2 + 0.1, height / 2)])
    positions = torch.cat([seen, aside, behind])
    return SparsePoints(positions, torch.linspace(0, 1, 18).view(6, 3))


def test_which_points_are_unseen(context):
    network = make_network()
    prediction = network(context, with_prior=False).prediction
    found = unseen_points(prediction.gaussians, prediction.grid, context, cloud(context))
    assert found.tolist() == [False, True, True, True, True, True]
    without_surface = unseen_points(prediction.gaussians, None, context, cloud(context))
    assert without_surface.tolist() == [False, True, True, True, False, False]


def test_they_follow_the_prediction_with_its_mean_prior(context):
    network = make_network()
    plain, points = network(context), cloud(context)
    output = network(replace(context, points=points))
    count = plain.gaussians.num_gaussians
    assert output.gaussians.num_gaussians == count + 5
    assert torch.equal(output.gaussians[:count].flatten(), plain.gaussians.flatten())
    assert output.prediction.gaussians.num_gaussians == count
    torch.testing.assert_close(output.gaussians.means[count:], points.positions[1:])
    colors = 0.5 + 0.28209479177387814 * output.gaussians.sh0[count:, 0]
    torch.testing.assert_close(colors, points.colors[1:])
    assert plain.prior is not None
    assert output.prior is not None
    for name, strength in plain.prior.items():
        assert torch.equal(output.prior[name][:count], strength)
        expected = strength.log().mean(0).exp().expand(5, *strength.shape[1:])
        torch.testing.assert_close(output.prior[name][count:], expected)


def test_nothing_is_added_where_everything_is_seen(context):
    network = make_network()
    width, height = context.cameras.width, context.cameras.height
    seen = points_of(context, 2.0, [(width / 2, height / 2), (width / 2, height / 2 + 1)])
    output = network(replace(context, points=SparsePoints(seen, torch.full_like(seen, 0.5))), with_prior=False)
    assert output.gaussians is output.prediction.gaussians
    assert output.prior is None


def test_a_backbone_that_does_not_read_points_stays_as_it_is(context):
    network = make_network()
    network.backbone.uses_points = False
    output = network(replace(context, points=cloud(context)))
    assert output.gaussians is output.prediction.gaussians


def test_they_go_through_the_optimisation(context):
    module = TrainingModule(make_network(), make_config())
    found = reconstruct(module, replace(context, points=cloud(context)), 2)
    assert found.after.num_gaussians == found.output.prediction.gaussians.num_gaussians + 5
    assert found.solution is not None
    assert found.solution.loss_curve[-1] < found.solution.loss_curve[0]


def test_d_is_that_of_training_or_of_the_scene(context):
    module = TrainingModule(make_network(), make_config())
    module.tto.curvature_scale.update(torch.full((1, 6), 7.0, dtype=torch.float64))
    assert evaluation_layer(module).curvature_scale is module.tto.curvature_scale
    of_training = reconstruct(module, context, 1).solution
    module.config = replace(module.config, tto_scale_eval="scene")
    of_scene = reconstruct(module, context, 1).solution
    assert of_training is not None
    assert of_scene is not None
    assert set(of_training.curvature_scale.values()) == {7.0}
    assert len(set(of_scene.curvature_scale.values())) > 1
    with pytest.raises(ValueError, match="tto_scale_eval"):
        replace(module.config, tto_scale_eval="neither")


def test_a_point_that_lies_alone_is_not_drawn_all_over_the_picture(context):
    network = make_network()
    count = network(context, with_prior=False).gaussians.num_gaussians
    grid = 0.1 * torch.stack(torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij"), -1).view(-1, 3)
    aside = points_of(context, 3.0, [(50.0 * context.cameras.width, 0.0)]) + grid
    alone = points_of(context, 3.0, [(-90.0 * context.cameras.width, 0.0)])
    positions = torch.cat([aside, alone])
    added = network(replace(context, points=SparsePoints(positions, torch.full_like(positions, 0.5)))).gaussians[count:]
    torch.testing.assert_close(added.scales_activated[:-1], torch.full((125, 3), 0.1))
    torch.testing.assert_close(added.scales_activated[-1], torch.full((3,), 0.8), rtol=1e-3, atol=0)
