# SPDX-License-Identifier: Apache-2.0
"""MetaGrad against its definition, where it can be written down."""

import math
import weakref
from dataclasses import replace

import pytest
import torch

from ns_diff3r import render
from ns_diff3r.solver import BackwardConfig, DifferentiableTTO, LearningRates, MetaGradConfig
from ns_diff3r.solver.inner import SGD, run_trajectory
from ns_diff3r.solver.problem import SceneProblem
from ns_diff3r.splats import GROUPS, Views
from tests.scenes import make_scene
from tests.solver.dense_problem import random_gaussians
from tests.solver.layer_calls import MSE, config_of, watched

RATE = 0.4
RATES = LearningRates(**dict.fromkeys(GROUPS, RATE))


def settings(num_steps: int = 7, **anchors):
    fixed = {"stride": 2, "min_steps": 0, "max_steps": 0}
    metagrad = MetaGradConfig(**{**fixed, **anchors})
    return config_of(
        num_steps=num_steps,
        optimizer="sgd",
        learning_rates=RATES,
        backward_mode="metagrad",
        backward=BackwardConfig(metagrad=metagrad),
    )


@pytest.mark.parametrize("include_start", [False, True])
def test_gradient_is_the_mean_over_the_anchors(dense, include_start):
    """Inner: a linear MSE problem by gradient descent. Outer: ½|G − t|², with gradient G − t. ĝ = mean G_k − t."""
    init, context, renderer = dense()
    target = random_gaussians(4, 1, seed=9).flatten()
    n, matrix = context.images.numel(), renderer.matrix
    theta, iterates = init.flatten(), []
    for _ in range(8):
        iterates.append(theta)
        error = renderer.offset.reshape(-1) + matrix @ theta - context.images.reshape(-1)
        theta = theta - RATE * 2 / n * matrix.T @ error
    anchors = [iterates[k] for k in ((0, 2, 4, 6) if include_start else (2, 4, 6))]
    expected = torch.stack(anchors).mean(0) - target
    value = sum(float(0.5 * (theta - target).square().sum()) for theta in anchors) / len(anchors)

    leaves = watched(init)
    prior = torch.tensor(1e-12, dtype=torch.float64, requires_grad=True)
    layer = DifferentiableTTO(settings(include_start=include_start)).eval()
    theta, solution = layer(leaves, prior, context, lambda g: 0.5 * (g.flatten() - target).square().sum())
    assert float(solution.anchor_loss.detach()) == pytest.approx(value, rel=1e-9)
    (3.0 * solution.anchor_loss).backward()
    gradient = torch.cat([leaf.grad.reshape(-1) for leaf in leaves.leaves()])
    torch.testing.assert_close(gradient, 3.0 * expected, rtol=1e-8, atol=1e-10)
    assert float(prior.grad) == 0.0
    torch.testing.assert_close(theta.detach().flatten(), iterates[7], rtol=1e-8, atol=1e-10)


def test_result_passes_its_gradient_on(dense):
    init, context, _ = dense()
    leaves = watched(init)
    theta, solution = DifferentiableTTO(settings()).eval()(leaves, 1.0, context, lambda g: g.means.sum())
    (theta.sh0.sum() * 2).backward()
    assert torch.equal(leaves.sh0.grad, torch.full_like(leaves.sh0, 2.0))
    assert not leaves.means.grad.any()
    assert solution.backward.mode.value == "metagrad"


def test_anchors_are_detached_and_nothing_of_them_is_kept(dense):
    init, context, _ = dense()
    leaves = watched(init)
    seen: list[weakref.ref] = []

    def loss(gaussians):
        assert gaussians.means.requires_grad
        (of_start,) = torch.autograd.grad(gaussians.means.sum(), leaves.means, retain_graph=True, allow_unused=True)
        assert of_start is None
        seen.append(weakref.ref(gaussians.means))
        assert sum(reference() is not None for reference in seen) <= 2
        return gaussians.means.sum()

    _, solution = DifferentiableTTO(settings(num_steps=40)).eval()(leaves, 1.0, context, loss)
    assert len(seen) == 20
    assert all(reference() is None for reference in seen)
    assert leaves.means.grad is None  # taking the loss at the anchors leaves no gradient behind
    solution.anchor_loss.backward()
    assert torch.equal(leaves.means.grad, torch.ones_like(leaves.means))


def test_horizon_is_random_in_training_and_repeats_with_its_seed(dense):
    init, context, _ = dense()
    layer = DifferentiableTTO(settings(min_steps=3, max_steps=30)).train()

    def horizon(seed: int | None) -> int:
        return layer(watched(init), 1.0, context, lambda g: g.means.sum(), seed=seed)[1].num_steps

    assert len({horizon(seed) for seed in range(8)}) > 3
    assert all(3 <= horizon(seed) <= 30 for seed in range(8))
    assert horizon(5) == horizon(5)
    torch.manual_seed(0)
    drawn = [horizon(None) for _ in range(4)]
    torch.manual_seed(0)
    assert drawn == [horizon(None) for _ in range(4)]
    assert layer.eval()(watched(init), 1.0, context, lambda g: g.means.sum(), seed=1)[1].num_steps == 7


def test_anchors_are_in_world_units():
    """In the normalised frame of the optimisation and without it the first-order gradient is one and the same."""
    init, cameras = make_scene("generic", sh_degree=0, num_gaussians=8, size=(13, 15))
    context = Views((0.5 * render(init, cameras).rgb + 0.2).clamp(0, 1), cameras)
    config = settings(num_steps=4)
    config = replace(config, loss=MSE, learning_rates=LearningRates(**dict.fromkeys(GROUPS, 0.0)))
    gradients = []
    for normalize in (True, False):
        leaves = watched(init)
        layer = DifferentiableTTO(replace(config, normalize_frame=normalize)).eval()
        _, solution = layer(leaves, 1.0, context, lambda g: (g.flatten() * init.flatten()).square().sum())
        solution.anchor_loss.backward()
        gradients.append(torch.cat([leaf.grad.reshape(-1) for leaf in leaves.leaves()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_what_cannot_have_anchors_is_refused(dense):
    init, context, _ = dense()
    with pytest.raises(ValueError, match="outer_loss"):
        DifferentiableTTO(settings())(watched(init), 1.0, context)
    with torch.no_grad():
        DifferentiableTTO(settings())(watched(init), 1.0, context)
    with pytest.raises(ValueError, match="reach no anchor"):
        settings(num_steps=1)
    with pytest.raises(ValueError, match="reach no anchor"):
        settings(num_steps=100, stride=20, min_steps=10, max_steps=50)


def test_a_run_that_ends_before_its_first_anchor_has_its_result(dense):
    init, context, _ = dense()
    config = replace(settings(stride=5), stationarity_tolerance=0.99)
    leaves = watched(init)
    theta, solution = DifferentiableTTO(config).eval()(leaves, 1.0, context, lambda g: 0.5 * g.sh0.square().sum())
    assert 0 < solution.num_steps < 5
    solution.anchor_loss.backward()
    torch.testing.assert_close(leaves.sh0.grad, theta.sh0.detach())


def test_a_run_that_diverges_has_no_anchor_loss(dense):
    init, context, _ = dense(bend=1.0)
    wild = replace(settings(num_steps=300), learning_rates=LearningRates(**dict.fromkeys(GROUPS, 1e5)))
    _, solution = DifferentiableTTO(wild).eval()(watched(init), 1.0, context, lambda g: g.flatten().square().sum())
    assert solution.status.value == "diverged"
    assert solution.anchor_loss is None


@pytest.mark.parametrize(
    "broken",
    [{"stride": 0}, {"min_steps": 5, "max_steps": 3}, {"zero_shot_weight": 1.5}, {"anchor_views": "all"}],
)
def test_bad_settings_are_refused(broken):
    with pytest.raises(ValueError, match="MetaGradConfig"):
        MetaGradConfig(**broken)


def test_seen_by_the_loop(dense):
    """The observer alone, on a run of the inner loop: every stride-th iterate, in order."""
    from ns_diff3r.solver.backward import AnchorObserver

    init, context, renderer = dense()
    problem = SceneProblem(MSE.against(context.images), renderer)
    visited: list[torch.Tensor] = []

    def loss(gaussians):
        visited.append(gaussians.flatten().detach())
        return gaussians.means.sum()

    observer = AnchorObserver(MetaGradConfig(stride=3), loss, init.unflatten)
    optimizer = SGD(dict.fromkeys(GROUPS, RATE))
    run_trajectory(problem, init, optimizer, 7, observer=observer)
    ends = [run_trajectory(problem, init, optimizer, steps).theta for steps in (3, 6)]
    assert all(torch.equal(a, b) for a, b in zip(visited, ends, strict=True))
    assert math.isclose(sum(observer.values), sum(float(init.unflatten(end).means.sum()) for end in ends))
