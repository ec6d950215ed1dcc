# SPDX-License-Identifier: Apache-2.0
"""Levenberg-Marquardt, view sampling, schedules, time budgets: what the inner loop can be told to do."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from ns_diff3r import render
from ns_diff3r.solver import DifferentiableTTO, ImageLoss, LearningRates, PCGConfig, TTOConfig
from ns_diff3r.solver.inner import (
    Adam,
    LevenbergMarquardt,
    LMConfig,
    RateSchedule,
    TTOStatus,
    ViewSampler,
    ViewSampling,
    run_trajectory,
)
from ns_diff3r.solver.prior import Prior
from ns_diff3r.splats import GROUPS, Gaussians, Views
from tests.scenes import make_scene, random_tangent
from tests.solver.dense_problem import DenseRenderer, dense_scene, random_gaussians
from tests.solver.layer_calls import MSE, config_of, gradients, strengths

SIZE = (13, 15)
TIGHT = PCGConfig(preconditioner="jacobi", tolerance=1e-12, max_iterations=500)


def scene(num_views: int = 2, num: int = 10) -> tuple[Gaussians, Views]:
    gaussians, cameras = make_scene("generic", sh_degree=1, num_gaussians=num, num_views=num_views, size=SIZE)
    truth = gaussians.combine(lambda a, b: a + 0.1 * b, random_tangent(gaussians, 5))
    return gaussians, Views(render(truth, cameras).rgb.clamp(0, 1), cameras)


# --- Levenberg-Marquardt ---


def test_lm_finds_the_minimum_of_a_linear_problem_and_lowers_its_damping():
    start = random_gaussians(4, 1)
    problem = dense_scene(start, DenseRenderer(start), MSE, noise=0.5)
    prior = Prior(
        start.flatten().clone(), torch.full((start.num_parameters,), 0.05).double(), [1.0] * 6, start.group_slices()
    )
    run = run_trajectory(
        problem, start, LevenbergMarquardt(LMConfig(damping=1.0, damping_down=2.0, pcg=TIGHT)), 30, prior
    )
    assert run.stationarity < 1e-6
    assert run.state["refused"] == 0
    assert run.state["damping"] == pytest.approx(max(1e-6, 0.5 ** run.state["taken"]))


@pytest.mark.parametrize("loss", [MSE, ImageLoss(), ImageLoss(kind="charbonnier"), ImageLoss(kind="huber")])
def test_lm_lowers_the_loss_of_a_scene(loss):
    init, context = scene()
    config = TTOConfig(num_steps=12, optimizer="lm", loss=loss)
    curve = DifferentiableTTO(config).eval()(init, None, context)[1].loss_curve
    assert sum(after > before for before, after in itertools.pairwise(curve)) <= 2  # where the order flipped
    assert curve[-1] < 0.5 * curve[0]


def test_lm_refuses_a_step_that_does_not_help_and_damps_the_next_more():
    """A strongly bent renderer: the Gauss-Newton step overshoots. Refused, θ stays to the bit; halved, it is taken."""
    start = random_gaussians(4, 1)
    problem = dense_scene(start, DenseRenderer(start, bend=1.0), MSE, noise=2.0)
    settings = LMConfig(damping=1e-6, damping_up=4.0, pcg=TIGHT)
    run = run_trajectory(problem, start, LevenbergMarquardt(settings), 1)
    assert (run.state["taken"], run.state["refused"], run.state["loss"]) == (0, 1, run.loss_curve[0])
    assert run.state["damping"] == pytest.approx(4e-6)
    assert torch.equal(run.theta, start.flatten())
    searched = run_trajectory(problem, start, LevenbergMarquardt(replace(settings, line_search=12)), 1)
    assert searched.state["taken"] == 1
    assert searched.loss_curve[1] < searched.loss_curve[0]
    patient = run_trajectory(problem, start, LevenbergMarquardt(settings), 40)
    assert patient.state["refused"] > 1
    assert patient.loss_curve[-1] < 0.9 * patient.loss_curve[0]
    assert all(after <= before for before, after in itertools.pairwise(patient.loss_curve))


def test_lm_damps_more_after_a_step_that_turned_out_to_raise_the_loss():
    start = random_gaussians(4, 1)
    problem = dense_scene(start, DenseRenderer(start), MSE, noise=0.5)
    settings = LMConfig(damping=1.0, damping_down=2.0, damping_up=3.0, pcg=TIGHT)
    dampings = []
    for before in (math.inf, 1e-9):
        state = LevenbergMarquardt(settings).init(start) | {"loss": before}
        dampings.append(run_trajectory(problem, start, LevenbergMarquardt(settings), 1, state=state).state["damping"])
    assert dampings == pytest.approx([0.5, 3.0])  # 1/2, and 1 · 2 · 3 / 2


def test_lm_leaves_frozen_groups_and_what_nothing_sees():
    init, context = scene()
    away = init.means.clone()
    away[2, 2] -= 100.0
    init = replace(init, means=away)
    config = TTOConfig(num_steps=12, optimizer="lm", frozen_groups=("quats", "shN"), normalize_frame=False)
    theta, solution = DifferentiableTTO(config).eval()(init, None, context)
    assert min(solution.loss_curve) < solution.loss_curve[0]
    for (name, before), after in zip(init.items(), theta.leaves(), strict=True):
        assert torch.equal(before, after) == (name in ("quats", "shN"))
        assert torch.equal(before[2], after[2])


def test_lm_result_is_differentiated_by_the_implicit_mode():
    init, context = scene()
    config = TTOConfig(num_steps=25, optimizer="lm", loss=MSE, pcg=PCGConfig(tolerance=1e-8, max_iterations=500))
    cotangent = random_tangent(init, 9).flatten()
    _, start, multiplier = gradients(DifferentiableTTO(config).eval(), init, strengths(init), context, cotangent)
    assert torch.isfinite(start).all()
    assert float(multiplier.norm()) > 0


@pytest.mark.parametrize(
    "broken",
    [
        {"damping": 0.0},
        {"damping": 1e9},
        {"damping_up": 0.5},
        {"damping_floor": 0.0},
        {"min_relative_decrease": 1.0},
        {"line_search": -1},
    ],
)
def test_bad_step_control_is_refused(broken):
    with pytest.raises(ValueError, match="LMConfig"):
        LMConfig(**broken)


# --- Charbonnier ---


def test_charbonnier_is_between_l1_and_mse():
    target = torch.rand(1, 6, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rendered = target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = ImageLoss(kind="charbonnier", charbonnier_epsilon=0.05, ssim_weight=0.3)
    at = loss.linearize(rendered, target)
    leaf = rendered.clone().requires_grad_()
    from ns_diff3r.solver.image_loss import differentiable_loss

    value = differentiable_loss(loss.against(target), leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    assert at.value == pytest.approx(float(value.detach()), rel=1e-12)
    torch.testing.assert_close(at.gradient, gradient.detach(), rtol=1e-9, atol=1e-15)
    v = torch.randn(target.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (product,) = torch.autograd.grad(gradient, leaf, v)
    torch.testing.assert_close(at.hessian_product(v), product, rtol=1e-8, atol=1e-15)

    sharp = ImageLoss(kind="charbonnier", charbonnier_epsilon=1e-9, ssim_weight=0.0).linearize(rendered, target)
    assert sharp.value == pytest.approx(
        ImageLoss(kind="l1", ssim_weight=0.0).linearize(rendered, target).value, rel=1e-6
    )
    error, delta = rendered - target, 0.05
    plain = ImageLoss(kind="charbonnier", charbonnier_epsilon=delta, ssim_weight=0.0).linearize(rendered, target)
    rho = (error.square() + delta**2).sqrt() - delta
    slope = error / (error.square() + delta**2).sqrt()
    assert isinstance(plain.curvature, torch.Tensor)
    torch.testing.assert_close(plain.curvature, slope**2 / (2 * rho), rtol=1e-6, atol=0)
    still = ImageLoss(kind="charbonnier", charbonnier_epsilon=delta, ssim_weight=0.0).linearize(target, target)
    torch.testing.assert_close(still.curvature, torch.full_like(target, 1 / delta))


# --- schedules ---


def test_rates_fall_as_they_are_told():
    exponential = RateSchedule(decay="exponential", final_fraction=0.01, groups=("means",))
    rates = {"means": 2.0, "sh0": 3.0}
    assert exponential.rates(rates, 0, 11) == pytest.approx(rates)
    assert exponential.rates(rates, 5, 11) == pytest.approx({"means": 0.2, "sh0": 3.0})
    assert exponential.rates(rates, 10, 11) == pytest.approx({"means": 0.02, "sh0": 3.0})
    cosine = RateSchedule(decay="cosine", final_fraction=0.5)
    assert [cosine.factor(step, 3) for step in (0, 1, 2, 7)] == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert RateSchedule(decay="cosine", num_steps=5).factor(2, 1000) == pytest.approx(0.505)
    assert RateSchedule().factor(3, 4) == 1.0
    assert RateSchedule(decay="exponential").factor(0, 1) == 1.0


@pytest.mark.parametrize("broken", [{"decay": "linear"}, {"final_fraction": 0.0}, {"num_steps": -1}])
def test_bad_schedules_are_refused(broken):
    with pytest.raises(ValueError, match="RateSchedule"):
        RateSchedule(**broken)
    with pytest.raises(ValueError, match=r"rate_schedule\.groups"):
        TTOConfig(rate_schedule=RateSchedule(groups=("colours",)))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("order", ["all", "random"])
def test_adjoint_follows_schedules_and_sampled_views(optimizer, order):
    """Central differences of the live layer on a smooth dense-like scene: one direction of θ⁰ and of λ."""
    init, context = scene(num_views=4)
    config = TTOConfig(
        num_steps=8,
        optimizer=optimizer,
        learning_rates=LearningRates(**dict.fromkeys(GROUPS, 2e-3 if optimizer == "adam" else 0.3)),
        rate_schedule=RateSchedule(decay="exponential", final_fraction=0.05, groups=("means", "sh0")),
        view_sampling=ViewSampling(order=order, views_per_step=2),
        loss=ImageLoss(kind="charbonnier"),
        backend="reference",
        backward_mode="unroll",
        normalize_frame=False,
    )
    cotangent = random_tangent(init, 9).flatten()
    unrolled = gradients(DifferentiableTTO(config).eval(), init, strengths(init), context, cotangent)
    adjoint_config = replace(config, backward_mode="adjoint", backend="native")
    for trajectory in ("snapshots", "recomputation"):
        chosen = replace(adjoint_config, backward=replace(config.backward, trajectory=trajectory))
        adjoint = gradients(DifferentiableTTO(chosen).eval(), init, strengths(init), context, cotangent)
        for actual, expected in zip(adjoint, unrolled, strict=True):
            assert (actual - expected).norm() < 1e-8 * expected.norm()


# --- view sampling ---


def centers(count: int) -> torch.Tensor:
    return torch.tensor([[float(i), 0.0, 0.0] for i in range(count)])


@pytest.mark.parametrize("order", ["random", "sequential"])
@pytest.mark.parametrize("per_step", [1, 2, 3])
def test_every_view_comes_before_any_comes_again(order, per_step):
    sampler = ViewSampler(ViewSampling(order=order, views_per_step=per_step), centers(7), seed=3)
    drawn = [view for step in range(14) for view in sampler.views(step)]
    for epoch in range(2 * per_step):
        assert sorted(drawn[7 * epoch : 7 * (epoch + 1)]) == list(range(7))
    assert all(len(set(sampler.views(step))) == per_step for step in range(30))
    assert [sampler.views(step) for step in (4, 0)] == [sampler.views(4), sampler.views(0)]  # of the step alone
    if order == "random":
        other = ViewSampler(ViewSampling(order=order, views_per_step=per_step), centers(7), seed=4)
        assert [sampler.views(s) for s in range(9)] != [other.views(s) for s in range(9)]


def test_neighbours_are_near_and_farthest_points_are_far():
    near = ViewSampler(ViewSampling(order="neighbours", views_per_step=3), centers(9), seed=0)
    far = ViewSampler(ViewSampling(order="farthest_point", views_per_step=3), centers(9), seed=0)
    for step in range(18):
        views = near.views(step)
        assert max(views) - min(views) <= 3
        views = far.views(step)
        assert {0, 8} & set(views)
        assert max(views) - min(views) >= 4
    assert sorted(near.views(step)[0] for step in range(9)) == list(range(9))
    assert sorted(far.views(step)[0] for step in range(9, 18)) == list(range(9))


def test_sampled_steps_are_measured_on_all_views():
    init, context = scene(num_views=4)
    config = config_of(num_steps=3, learning_rates=LearningRates(), view_sampling=ViewSampling("sequential", 1))
    theta, solution = DifferentiableTTO(config).eval()(init, None, context)
    whole = MSE.linearize(render(theta, context.cameras).rgb, context.images).value
    assert solution.image_loss == pytest.approx(whole, rel=1e-9)
    first = MSE.linearize(render(init, context.cameras).rgb[:1], context.images[:1]).value
    assert solution.loss_curve[0] == pytest.approx(first, rel=1e-9)
    still = replace(config, num_steps=0)
    assert DifferentiableTTO(still).eval()(init, None, context)[1].stationarity == pytest.approx(1.0)
    every = replace(config, view_sampling=ViewSampling("random", 9))
    plain = replace(config, view_sampling=ViewSampling())
    results = [DifferentiableTTO(c).eval()(init, None, context)[0].flatten() for c in (every, plain)]
    assert torch.equal(*results)


def test_seeds_decide_in_training_and_evaluation_repeats():
    init, context = scene(num_views=5)
    config = config_of(num_steps=4, view_sampling=ViewSampling("random", 2))
    layer = DifferentiableTTO(config).eval()
    assert torch.equal(layer(init, None, context)[0].flatten(), layer(init, None, context)[0].flatten())
    layer.train()
    seeded = [layer(init, None, context, seed=seed)[0].flatten() for seed in (1, 1, 2)]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])


@pytest.mark.parametrize("broken", [{"order": "nearest"}, {"views_per_step": 0}])
def test_bad_sampling_is_refused(broken):
    with pytest.raises(ValueError, match="ViewSampling"):
        ViewSampling(**broken)


# --- time ---


def test_a_run_ends_when_its_time_is_over(monkeypatch):
    start = random_gaussians(4, 1)
    problem = dense_scene(start, DenseRenderer(start), MSE)
    clock = iter(range(1000))
    monkeypatch.setattr("ns_diff3r.solver.inner.trajectory.time.perf_counter", lambda: float(next(clock)))
    run = run_trajectory(problem, start, Adam(dict.fromkeys(GROUPS, 0.01)), 50, time_budget=4.0)
    assert run.status is TTOStatus.TIME_BUDGET
    assert run.num_steps == 3
    assert len(run.loss_curve) == 4
    assert all(math.isfinite(value) for value in run.last_gradient.values())
    with pytest.raises(ValueError, match="time_budget"):
        TTOConfig(time_budget=0.0)
