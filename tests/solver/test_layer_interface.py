# SPDX-License-Identifier: Apache-2.0
"""`DifferentiableTTO` as a training step meets it: lists, autocast, grad scaler, reports, saved state, bad input."""

import math

import pytest
import torch
from torch import Tensor

from ns_diff3r.solver import DifferentiableTTO, PCGConfig, TTOConfig, TTOStatus
from ns_diff3r.solver.config import LearningRates
from ns_diff3r.splats import GROUPS, Gaussians
from tests.solver.layer_calls import config_of, strengths, watched


def test_lists_of_scenes_of_different_sizes_equal_single_calls(dense):
    scenes = [dense(num=3), dense(num=5, image=(1, 6, 3)), dense(num=4)]
    layer = DifferentiableTTO(config_of(num_steps=6)).train()
    inits = [watched(init) for init, _, _ in scenes]
    thetas, solution = layer(inits, [0.3, strengths(scenes[1][0]), 0.7], [context for _, context, _ in scenes])
    sum((theta.flatten() ** 2).sum() for theta in thetas).backward()
    assert len(solution.scenes) == 3
    assert solution.status is TTOStatus.COMPLETED
    assert solution.num_steps == 6
    assert solution.loss_curve[-1] == pytest.approx(sum(s.loss_curve[-1] for s in solution.scenes) / 3)
    assert solution.stationarity == max(s.stationarity for s in solution.scenes)
    assert solution.backward in [s.backward for s in solution.scenes]
    layer.eval()  # same D
    for theta, init, (source, context, _), prior in zip(
        thetas, inits, scenes, [0.3, strengths(scenes[1][0]), 0.7], strict=True
    ):
        single = watched(source)
        alone, _ = layer(single, prior, context)
        assert torch.equal(alone.flatten(), theta.flatten())
        (alone.flatten() ** 2).sum().backward()
        for a, b in zip(single.leaves(), init.leaves(), strict=True):
            assert torch.equal(a.grad, b.grad)


def test_autocast_and_grad_scaler(dense):
    """Half-precision λ, scaled gradients: the unscaled result is that of plain float32."""
    init, context, _ = dense(dtype=torch.float32)
    config = config_of(num_steps=5, pcg=PCGConfig(tolerance=1e-6, max_iterations=500))
    layer = DifferentiableTTO(config).eval()
    logits = {name: torch.zeros(4, 1, requires_grad=True) for name in GROUPS}
    head = torch.nn.Linear(3, 3)
    torch.manual_seed(0)

    def step(autocast: bool, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        head.zero_grad()
        for logit in logits.values():
            logit.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            means = init.means + 0.01 * head(init.means.detach()).float()
            prior = {name: torch.exp(logit.to(torch.bfloat16) if autocast else logit) for name, logit in logits.items()}
            moved = Gaussians(means, *init.leaves()[1:])
            theta, _ = layer(moved, prior, context)
            assert theta.dtype == torch.float32
            loss = (theta.flatten() ** 2).mean()
        (scale * loss).backward()
        assert head.weight.grad is not None
        assert logits["sh0"].grad is not None
        return theta.flatten().detach(), head.weight.grad / scale, logits["sh0"].grad / scale

    plain, scaled, mixed = step(False, 1.0), step(False, 65536.0), step(True, 65536.0)
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for a, b in zip(plain, mixed, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2, atol=1e-3 * float(a.abs().max()))


def test_overflowing_gradient_comes_out_non_finite_so_that_the_scaler_skips(dense):
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(num_steps=2)).eval()
    leaves = watched(init)
    theta, solution = layer(leaves, 0.5, context)
    (theta.means.sum() * math.inf).backward()
    assert solution.backward is not None
    assert solution.backward.status == "non_finite_gradient"
    assert leaves.means.grad is not None
    assert not torch.isfinite(leaves.means.grad).any()


def test_changing_the_result_in_place_does_not_change_the_gradient(dense):
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(num_steps=3)).eval()
    results = []
    for spoil in (False, True):
        strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        theta, _ = layer(init, strength, context)
        loss = theta.sh0.sum() + theta.quats.sum()
        if spoil:
            with torch.no_grad():
                theta.sh0.zero_()
                theta.quats.fill_(5.0)
        loss.backward()
        results.append(strength.grad)
    assert torch.equal(*results)


def test_report_of_the_backward_pass_is_filled_in_place(dense):
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(num_steps=3, pcg=PCGConfig(tolerance=1e-6))).eval()
    theta, solution = layer(watched(init), 0.5, context)
    assert solution.backward is None
    theta.means.sum().backward()
    assert solution.backward is not None
    assert solution.backward.status == "converged"
    assert solution.backward.iterations > 0
    assert solution.backward.residual <= 1e-6
    assert not solution.backward.warnings
    capped = DifferentiableTTO(config_of(num_steps=3, pcg=PCGConfig(tolerance=1e-12, max_iterations=2))).eval()
    theta, solution = capped(watched(init), 0.5, context)
    theta.means.sum().backward()
    assert solution.backward.status == "max_iterations"
    assert "max_iterations" in solution.backward.warnings[0]


def test_warm_start_of_the_next_solve(dense):
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(num_steps=3, pcg=PCGConfig(tolerance=1e-8, warm_start=True))).eval()
    counts = []
    for _ in range(2):
        theta, solution = layer(watched(init), 0.5, context)
        theta.means.sum().backward()
        counts.append(solution.backward.iterations)
    assert counts[1] == 0 < counts[0]
    other, other_context, _ = dense(num=6)  # another size: the kept vector does not fit and is not used
    theta, solution = layer(watched(other), 0.5, other_context)
    theta.means.sum().backward()
    assert solution.backward.status == "converged"


def test_scale_follows_training_mode_and_is_saved(dense):
    init, context, renderer = dense()
    n = context.images.numel()
    own = renderer(init).diagonal(torch.full_like(context.images, 2.0))
    expected = {name: float(leaf.mean()) / n for name, leaf in own.items()}
    layer = DifferentiableTTO(config_of(num_steps=1))
    _, solution = layer.eval()(init, 0.5, context)
    assert solution.curvature_scale == pytest.approx(expected)
    assert not layer.curvature_scale.has_history
    _, solution = layer.train()(init, 0.5, context)
    assert solution.curvature_scale == pytest.approx(expected)
    other, other_context, _ = dense(num=6)
    for _ in range(3):
        layer(other, 0.5, other_context)
    _, solution = layer.eval()(init, 0.5, context)
    assert solution.curvature_scale != pytest.approx(expected, rel=1e-3)
    restored = DifferentiableTTO(layer.config).eval()
    restored.load_state_dict(layer.state_dict())
    assert restored(init, 0.5, context)[1].curvature_scale == solution.curvature_scale
    assert [name for name, _ in layer.named_parameters()] == []


def test_without_prior_plain_optimisation_works_and_the_implicit_gradient_is_refused(dense):
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(num_steps=3))
    with torch.no_grad():
        theta, solution = layer(watched(init), None, context)
    assert solution.curvature_scale is None
    assert solution.prior_loss == 0.0
    assert not torch.equal(theta.flatten(), init.flatten())
    with pytest.raises(ValueError, match="needs a prior"):
        layer(watched(init), None, context)


def test_stationarity_warning_and_divergence_are_in_the_report(dense):
    init, context, _ = dense(bend=1.0)
    _, solution = DifferentiableTTO(config_of(num_steps=1)).eval()(init, 0.5, context)
    assert solution.stationarity > 0.1
    assert "stationary" in solution.warnings[0]
    _, solution = DifferentiableTTO(config_of(num_steps=1, stationarity_warning=10.0)).eval()(init, 0.5, context)
    assert solution.warnings == []
    wild = LearningRates(**dict.fromkeys(GROUPS, 1e5))
    config = config_of(num_steps=300, optimizer="sgd", learning_rates=wild)
    theta, solution = DifferentiableTTO(config).eval()(init, 0.5, context)
    assert solution.status is TTOStatus.DIVERGED
    assert "learning rates" in solution.warnings[0]
    assert torch.isfinite(theta.flatten()).all()


def test_bad_input_is_refused_before_any_work(dense):
    init, context, renderer = dense()
    layer = DifferentiableTTO(config_of(num_steps=3))
    broken = Gaussians(init.means, init.quats, init.scales.clone(), *init.leaves()[3:])
    broken.scales[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"init\.scales has 1 non-finite"):
        layer(broken, 0.5, context)
    with pytest.raises(ValueError, match="finite and positive"):
        layer(init, 0.0, context)
    with pytest.raises(TypeError, match="list of each"):
        layer([init], 0.5, context)
    with pytest.raises(ValueError, match="do not match"):
        layer([init, init], 0.5, [context])
    with pytest.raises(ValueError, match="do not match"):
        layer([init], [0.5, 0.5], [context])
    with pytest.raises(ValueError, match="do not match"):
        layer([], 0.5, [])
    with pytest.raises(TypeError, match="Gaussians and Views"):
        layer([init], 0.5, [init])
    with pytest.raises(ValueError, match="nothing to optimise"):
        layer(init[:0], 0.5, context)
    renderer.visible[:] = False
    with pytest.raises(ValueError, match="none of 4 Gaussians is visible"):
        layer(init, 0.5, context)
    with pytest.raises(ValueError, match="unknown preset"):
        DifferentiableTTO(TTOConfig(preset="gsplat-9"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps"),
        ({"optimizer": "lbfgs"}, "optimizer"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas"),
        ({"adam_epsilon": -1.0}, "adam_epsilon"),
        ({"frozen_groups": ("colours",)}, "unknown.*colours"),
        ({"frozen_groups": GROUPS}, "every group"),
        ({"stationarity_tolerance": 1.0}, "stationarity_tolerance"),
        ({"curvature_decay": -0.1}, "curvature_decay"),
        ({"backward_mode": "magic"}, "magic"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TTOConfig(**settings)


def test_bad_learning_rates_are_refused():
    with pytest.raises(ValueError, match="LearningRates"):
        LearningRates(means=-1.0)
