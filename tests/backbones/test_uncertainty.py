# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from ns_diff3r.backbones import UncertaintyHead, UncertaintyHeadConfig, tiny_config
from ns_diff3r.solver import DifferentiableTTO, TTOConfig
from ns_diff3r.splats import GROUPS, Gaussians
from ns_diff3r.splats.flat_layout import leaf_shapes
from tests.backbones.scene_views import wall_views


def make_head(granularity: str = "gaussian", perturb: float = 0.0, sh_degree: int = 1, **changes) -> UncertaintyHead:
    torch.manual_seed(0)
    head = UncertaintyHeadConfig(granularity=granularity, **changes).setup(12, sh_degree)  # pyright: ignore
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += perturb * torch.randn(parameter.shape)
    return head


@pytest.mark.parametrize("granularity", ["gaussian", "parameter", "group", "uniform"])
@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("sh_degree", [0, 2])
def test_shapes_and_initial_value(granularity, count, sh_degree):
    strength = make_head(granularity, sh_degree=sh_degree, initial=0.3)(100 * torch.randn(count, 12))
    assert tuple(strength) == GROUPS
    for name, shape in leaf_shapes(count, sh_degree).items():
        assert strength[name].shape == (shape if granularity == "parameter" else (count, 1))
        torch.testing.assert_close(strength[name], torch.full_like(strength[name], 0.3))


def test_parameters_of_the_right_gaussian():
    head = make_head("parameter", perturb=0.5)
    features = torch.randn(5, 12)
    whole, single = head(features), head(features[3:4])
    for name in GROUPS:
        torch.testing.assert_close(whole[name][3:4], single[name], rtol=1e-5, atol=0)
    assert not torch.allclose(whole["means"][:, 0], whole["means"][:, 1])


@pytest.mark.parametrize("granularity", ["group", "uniform"])
def test_numbers_for_all_gaussians_are_learned_and_the_same(granularity):
    head = make_head(granularity, perturb=0.5)
    features = torch.randn(5, 12)
    strength = head(features)
    for name in GROUPS:
        torch.testing.assert_close(strength[name], strength[name][:1].expand(5, 1), rtol=0, atol=0)
        torch.testing.assert_close(strength[name], head(7 + torch.randn(5, 12))[name], rtol=0, atol=0)
    values = {round(float(strength[name][0].detach()), 5) for name in GROUPS}
    assert len(values) == (1 if granularity == "uniform" else len(GROUPS))
    sum(value.log().sum() for value in strength.values()).backward()
    assert head.last.bias.grad is not None
    assert (head.last.bias.grad > 0).all()
    assert list(head.state_dict()) == list(make_head("gaussian").state_dict())


def test_bounds_hold():
    head = make_head(perturb=3.0, minimum=0.1, initial=0.5, maximum=2.0)
    features = torch.randn(200, 12)
    values = torch.cat(list(head(features).values()))
    assert values.min() >= 0.1 * (1 - 1e-5)
    assert values.max() <= 2.0 * (1 + 1e-5)
    assert values.max() / values.min() > 10


def test_the_scale_of_the_features_does_not_matter():
    head, features = make_head(perturb=0.3), torch.randn(50, 12)
    expected = head(features)["means"]
    assert expected.max() / expected.min() > 2
    for factor in (0.3, 1e4):
        torch.testing.assert_close(head(factor * features)["means"], expected, rtol=1e-2, atol=0)


def test_what_it_cannot_use_is_named():
    with pytest.raises(ValueError, match=r"features \[N, 12\]"):
        make_head()(torch.zeros(3, 11))
    for changes in ({"initial": 2e4}, {"minimum": 0.0}, {"maximum": 0.5}, {"granularity": "pixel"}, {"hidden_dim": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            UncertaintyHeadConfig(**changes)


@pytest.mark.parametrize("granularity", ["gaussian", "parameter", "uniform"])
def test_gradients_flow_through_optimisation_to_the_head(granularity):
    views, _ = wall_views(num_views=3, size=(16, 20))
    torch.manual_seed(0)
    backbone = tiny_config(num_depths=8).setup()
    head = UncertaintyHeadConfig(granularity=granularity).setup(backbone.feature_dim, backbone.sh_degree)
    prediction = backbone(views[:2])
    layer = DifferentiableTTO(TTOConfig(num_steps=5))
    fitted, solution = layer(prediction.gaussians, head(prediction.features), views[:2])
    assert isinstance(fitted, Gaussians)
    assert solution.loss_curve[-1] < solution.loss_curve[0]
    from ns_diff3r.rasterization import render

    (render(fitted, views[2:].cameras).rgb - views[2:].images).square().mean().backward()
    assert head.last.weight.grad is not None
    assert head.last.bias.grad is not None
    assert head.last.bias.grad.any()
    assert head.last.weight.grad.isfinite().all()
    assert (head.last.weight.grad.abs().sum(1) > 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.gaussian_head_parameters())


def test_a_step_against_the_gradient_moves_strengths_apart():
    head = make_head()
    features = torch.randn(4, 12)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    head(features)["opacities"][0].log().sum().backward()
    optimizer.step()
    strength = head(features)
    assert strength["opacities"][0] < strength["opacities"][1:].min()
    torch.testing.assert_close(strength["means"], torch.ones(4, 1))
