# SPDX-License-Identifier: Apache-2.0
"""λ in its forms, Λ = λ·D, and the moving average D."""

import types

import pytest
import torch

from ns_diff3r.solver.curvature_scale import SMALLEST_RATIO, CurvatureScale, floored, scene_curvature
from ns_diff3r.solver.prior import Prior, flat_strength
from ns_diff3r.splats import GROUPS
from tests.solver.dense_problem import DenseRenderer, random_gaussians

PER_ATTRIBUTE = {name: torch.rand(5, 1, dtype=torch.float64) + 0.1 for name in GROUPS}


def test_one_number_and_one_tensor():
    init = random_gaussians(5, 1)
    assert torch.equal(flat_strength(init, 0.3), torch.full((init.num_parameters,), 0.3, dtype=torch.float64))
    watched = torch.tensor([0.3], requires_grad=True)
    flat = flat_strength(init, watched)
    assert flat.dtype == torch.float64
    (gradient,) = torch.autograd.grad(flat.sum(), watched)
    assert float(gradient) == init.num_parameters


def test_per_attribute_and_per_parameter_values_broadcast_from_the_left():
    init = random_gaussians(5, 1)
    flat = init.unflatten(flat_strength(init, PER_ATTRIBUTE))
    for name, leaf in flat.items():
        expected = PER_ATTRIBUTE[name].reshape(5, *[1] * (leaf.ndim - 1)).expand(leaf.shape)
        assert torch.equal(leaf, expected)
    full = init.map(lambda leaf: leaf.abs() + 0.1)
    assert torch.equal(flat_strength(init, full), full.flatten())
    namespace = types.SimpleNamespace(**PER_ATTRIBUTE)
    assert torch.equal(flat_strength(init, namespace), flat.flatten())


def test_half_precision_is_converted_differentiably():
    init = random_gaussians(5, 1, dtype=torch.float32)
    leaves = {name: value.half().requires_grad_() for name, value in PER_ATTRIBUTE.items()}
    flat = flat_strength(init, leaves)
    assert flat.dtype == torch.float32
    flat.sum().backward()
    gradient = leaves["shN"].grad
    assert gradient is not None
    assert gradient.dtype == torch.float16
    assert torch.equal(gradient, torch.full_like(gradient, 9.0))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_strengths_must_be_positive_and_finite(bad):
    init = random_gaussians(5, 1)
    with pytest.raises(ValueError, match="finite and positive"):
        flat_strength(init, bad)
    leaves = {name: value.clone() for name, value in PER_ATTRIBUTE.items()}
    leaves["scales"][2] = bad
    with pytest.raises(ValueError, match=r"3 of 15 values of scales"):
        flat_strength(init, leaves)


def test_malformed_priors_are_refused():
    init = random_gaussians(5, 1)
    with pytest.raises(TypeError, match="number or hold the groups"):
        flat_strength(init, "strong")
    with pytest.raises(ValueError, match="one number"):
        flat_strength(init, torch.ones(5, 6))
    with pytest.raises(ValueError, match=r"lacks the groups.*quats"):
        flat_strength(init, {name: 1.0 for name in GROUPS if name != "quats"})
    with pytest.raises(ValueError, match="broadcast"):
        flat_strength(init, {**PER_ATTRIBUTE, "sh0": torch.ones(4, 1)})


def test_strength_is_multiplier_times_group_scale():
    init = random_gaussians(5, 1)
    multiplier = init.map(lambda leaf: leaf.abs() + 0.1).flatten()
    scale = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    prior = Prior(init.flatten(), multiplier, scale, init.group_slices())
    expected = init.unflatten(multiplier)
    for factor, (name, leaf) in zip(scale, init.unflatten(prior.strength).items(), strict=True):
        torch.testing.assert_close(leaf, factor * getattr(expected, name))


def test_scene_curvature_is_the_mean_over_visible_gaussians():
    theta = random_gaussians(6, 1)
    linearization = DenseRenderer(theta, unseen=(0, 4))(theta)
    weights = torch.rand(linearization.rgb.shape, dtype=torch.float64)
    diagonal = theta.unflatten((weights.reshape(-1, 1) * linearization.jacobian**2).sum(0) / weights.numel())
    expected = [float(leaf[[1, 2, 3, 5]].mean()) for leaf in diagonal.leaves()]
    assert scene_curvature(linearization, weights, weights.numel()).tolist() == pytest.approx(expected, rel=1e-12)
    linearization.visible[:] = False
    with pytest.raises(ValueError, match="no Gaussian is visible"):
        scene_curvature(linearization, weights, weights.numel())


def test_degree_zero_has_no_curvature_for_higher_harmonics_but_a_scale():
    theta = random_gaussians(3, 0)
    linearization = DenseRenderer(theta)(theta)
    curvature = scene_curvature(linearization, torch.ones_like(linearization.rgb), 120).tolist()
    assert curvature[5] == 0.0
    assert floored(curvature)[5] == SMALLEST_RATIO * max(curvature)
    for bad in ([0.0] * 6, [float("nan")] * 6, [float("inf")] * 6):
        with pytest.raises(ValueError, match="no scale"):
            floored(bad)


def test_moving_average_is_bias_corrected_and_saved():
    scale = CurvatureScale(decay=0.9)
    with pytest.raises(RuntimeError, match="no history"):
        scale.scale()
    batches = torch.rand(4, 2, 6, dtype=torch.float64) + 0.5
    for batch in batches:
        scale.update(batch)
    weights = torch.tensor([0.9**3, 0.9**2, 0.9, 1.0], dtype=torch.float64)
    expected = (weights[:, None] * batches.mean(1)).sum(0) / weights.sum()
    assert scale.scale() == pytest.approx(expected.tolist(), rel=1e-12)
    restored = CurvatureScale(decay=0.9)
    restored.load_state_dict(scale.state_dict())
    assert restored.scale() == scale.scale()


def test_moving_average_is_that_of_all_processes(monkeypatch):
    """Another process whose batch holds one scene of curvature 7 (all_reduce replaced by its sum)."""
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def all_reduce(totals):
        totals += torch.tensor([7.0] * 6 + [1.0], dtype=totals.dtype)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    scale = CurvatureScale()
    scale.update(torch.tensor([[1.0] * 6, [4.0] * 6], dtype=torch.float64))
    assert scale.scale() == pytest.approx([4.0] * 6)


def test_first_update_is_the_average_itself():
    batches = torch.rand(1, 2, 6, dtype=torch.float64) + 0.5
    first = CurvatureScale()
    first.update(batches[0])
    assert first.scale() == pytest.approx(batches[0].mean(0).tolist(), rel=1e-12)
