# SPDX-License-Identifier: Apache-2.0
"""The inner loop: what it converges to, reports, freezes, records and resumes."""

import math
from dataclasses import replace

import pytest
import torch

from ns_diff3r.solver.hessian import hessian_product
from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.inner import SGD, Adam, GaussNewton, InnerOptimizer, TTOStatus, run_trajectory
from ns_diff3r.solver.pcg import PCGConfig
from ns_diff3r.solver.prior import Prior
from ns_diff3r.solver.problem import SceneProblem
from ns_diff3r.splats import GROUPS, Gaussians
from tests.solver.dense_problem import DenseRenderer, dense_scene, random_gaussians

MSE = ImageLoss(kind="mse", ssim_weight=0.0)
RATES = dict.fromkeys(GROUPS, 0.05)
TIGHT = GaussNewton(PCGConfig(tolerance=1e-13, max_iterations=2000))


def setup(
    loss: ImageLoss = MSE,
    bend: float = 0.0,
    strength: float = 0.05,
    dtype: torch.dtype = torch.float64,
    noise: float = 0.5,
) -> tuple[Gaussians, SceneProblem, Prior]:
    start = random_gaussians(4, 1, dtype=dtype)
    problem = dense_scene(start, DenseRenderer(start, bend=bend), loss, noise=noise)
    multiplier = torch.full((start.num_parameters,), strength, dtype=dtype)
    return (
        start,
        problem,
        Prior(start.flatten().clone(), multiplier, [1.0, 0.5, 2.0, 1.0, 3.0, 0.1], start.group_slices()),
    )


def exact_minimum(start: Gaussians, problem: SceneProblem, prior: Prior) -> torch.Tensor:
    """Of the linear MSE problem: (2/n JᵀJ + Λ) θ = 2/n Jᵀ(I − offset) + Λ θ⁰."""
    renderer = problem.linearize
    assert isinstance(renderer, DenseRenderer)
    n, matrix = problem.num_residuals, renderer.matrix
    left = 2 / n * matrix.T @ matrix + prior.strength.diag()
    right = 2 / n * matrix.T @ (problem.objective.target - renderer.offset).reshape(-1)
    return torch.linalg.solve(left, right + prior.strength * prior.anchor)


@pytest.mark.parametrize(
    ("optimizer", "steps", "tolerance"),
    [(SGD(dict.fromkeys(GROUPS, 1.0)), 4000, 1e-6), (Adam(dict.fromkeys(GROUPS, 0.01)), 4000, 2e-3), (TIGHT, 1, 1e-9)],
    ids=["sgd", "adam", "gauss_newton"],
)
def test_optimizers_find_the_minimum_of_a_linear_problem(optimizer: InnerOptimizer, steps, tolerance):
    start, problem, prior = setup()
    trajectory = run_trajectory(problem, start, optimizer, steps, prior)
    expected = exact_minimum(start, problem, prior)
    assert (trajectory.theta - expected).norm() < tolerance * (expected - prior.anchor).norm()
    assert trajectory.status is TTOStatus.COMPLETED
    assert trajectory.num_steps == steps
    assert trajectory.stationarity < 10 * tolerance
    assert trajectory.loss_curve[-1] < trajectory.loss_curve[0]


def test_report_is_what_it_says():
    start, problem, prior = setup(ImageLoss())
    start_copy = start.flatten().clone()
    trajectory = run_trajectory(problem, start, Adam(RATES), 7, prior)
    assert torch.equal(start.flatten(), start_copy)
    assert len(trajectory.loss_curve) == len(trajectory.image_loss_curve) == 8

    def inner_loss(flat):
        rendered = problem.linearize.image(flat)  # type: ignore[attr-defined]
        loss = problem.objective.linearize(rendered).value
        return loss, loss + 0.5 * float((prior.strength * (flat - prior.anchor) ** 2).sum())

    assert (trajectory.image_loss_curve[0], trajectory.loss_curve[0]) == pytest.approx(inner_loss(start.flatten()))
    assert (trajectory.image_loss_curve[-1], trajectory.loss_curve[-1]) == pytest.approx(inner_loss(trajectory.theta))
    point = problem.evaluate(start.unflatten(trajectory.theta))
    gradient = point.linearization.vjp(point.loss.gradient).flatten()
    gradient = start.unflatten(gradient + prior.strength * (trajectory.theta - prior.anchor))
    norms = {name: float(leaf.norm()) for name, leaf in gradient.items()}
    assert trajectory.last_gradient == pytest.approx(norms, rel=1e-10)
    first = math.hypot(*trajectory.first_gradient.values())
    assert trajectory.stationarity == pytest.approx(math.hypot(*norms.values()) / first)
    assert trajectory.group_stationarity["sh0"] == pytest.approx(norms["sh0"] / trajectory.first_gradient["sh0"])


def test_progress_is_reported_at_every_iterate():
    start, problem, prior = setup()
    calls: list[tuple[int, float]] = []
    trajectory = run_trajectory(
        problem, start, SGD(dict.fromkeys(GROUPS, 0.1)), 3, prior, progress=lambda *call: calls.append(call)
    )
    assert calls == list(enumerate(trajectory.loss_curve))


def test_no_steps_gives_back_the_start():
    start, problem, prior = setup()
    trajectory = run_trajectory(problem, start, Adam(RATES), 0, prior)
    assert torch.equal(trajectory.theta, start.flatten())
    assert trajectory.theta.data_ptr() != start.flatten().data_ptr()
    assert trajectory.stationarity == 1.0
    assert trajectory.num_steps == 0


@pytest.mark.parametrize("optimizer", [SGD(RATES), Adam(RATES), TIGHT], ids=["sgd", "adam", "gauss_newton"])
def test_frozen_groups_do_not_move(optimizer):
    start, problem, prior = setup()
    frozen = frozenset({"quats", "shN"})
    trajectory = run_trajectory(problem, start, optimizer, 5, prior, frozen=frozen)
    for (name, before), (_, after) in zip(start.items(), start.unflatten(trajectory.theta).items(), strict=True):
        assert torch.equal(before, after) == (name in frozen)
    assert set(trajectory.group_stationarity) == set(GROUPS) - frozen


def test_early_stop_on_stationarity():
    start, problem, prior = setup()
    full = run_trajectory(problem, start, SGD(dict.fromkeys(GROUPS, 1.0)), 500, prior)
    optimizer = Adam(RATES)
    trajectory = run_trajectory(problem, start, optimizer, 500, prior, stationarity_tolerance=0.05)
    assert trajectory.status is TTOStatus.STATIONARY
    assert trajectory.stationarity <= 0.05
    assert 0 < trajectory.num_steps < 500
    assert trajectory.state["step"] == trajectory.num_steps
    assert full.status is TTOStatus.COMPLETED


def test_a_run_can_be_interrupted_and_resumed():
    start, problem, prior = setup(ImageLoss(), bend=0.3)
    optimizer = Adam(RATES)
    whole = run_trajectory(problem, start, optimizer, 9, prior)
    half = run_trajectory(problem, start, optimizer, 4, prior)
    rest = run_trajectory(problem, start.unflatten(half.theta), optimizer, 5, prior, state=half.state)
    assert torch.equal(rest.theta, whole.theta)
    assert half.loss_curve + rest.loss_curve[1:] == whole.loss_curve


def test_divergence_returns_the_last_finite_iterate():
    start, problem, prior = setup(bend=1.0)
    trajectory = run_trajectory(problem, start, SGD(dict.fromkeys(GROUPS, 1e4)), 200, prior)
    assert trajectory.status is TTOStatus.DIVERGED
    assert torch.isfinite(trajectory.theta).all()
    assert 0 < trajectory.num_steps < 200
    assert all(map(math.isfinite, trajectory.loss_curve))
    again = run_trajectory(problem, start, SGD(dict.fromkeys(GROUPS, 1e4)), trajectory.num_steps, prior)
    assert torch.equal(again.theta, trajectory.theta)


def test_divergence_at_the_start():
    start, problem, prior = setup()
    broken = replace(problem, linearize=lambda g: problem.linearize(g.map(lambda leaf: leaf * math.nan)))
    trajectory = run_trajectory(broken, start, Adam(RATES), 3, prior)
    assert trajectory.status is TTOStatus.DIVERGED
    assert torch.equal(trajectory.theta, start.flatten())
    assert math.isnan(trajectory.stationarity)


@pytest.mark.parametrize(("loss", "noise"), [(MSE, 0.5), (ImageLoss(), 0.5), (ImageLoss(), 1e-6)])
def test_replay_is_the_run_itself_at_its_own_start_and_smooth_around_it(loss, noise):
    start, problem, prior = setup(loss, bend=0.3, noise=noise)
    # With its usual ε Adam's first step is a sign function, which no difference quotient follows across zero.
    optimizer = Adam(RATES, epsilon=1e-2)
    trajectory = run_trajectory(problem, start, optimizer, 6, prior, record=True)
    replayed = run_trajectory(trajectory.replay(), start, optimizer, 6, prior)
    torch.testing.assert_close(replayed.theta, trajectory.theta, rtol=1e-12, atol=1e-13)
    assert replayed.loss_curve == pytest.approx(trajectory.loss_curve, rel=1e-12)
    # Halving the step of a central difference changes it by O(step²): frozen signs leave no kinks.
    direction = random_gaussians(4, 1, seed=11).flatten()

    def difference(step):
        ends = []
        for sign in (1, -1):
            moved = prior.anchor + sign * step * direction
            own = replace(prior, anchor=moved)
            ends.append(run_trajectory(trajectory.replay(), start.unflatten(moved), optimizer, 6, own).theta)
        return (ends[0] - ends[1]) / (2 * step)

    coarse, fine = difference(1e-4), difference(5e-5)
    assert (coarse - fine).norm() < 1e-3 * fine.norm()
    with pytest.raises(ValueError, match="record=True"):
        replayed.replay()


def test_a_record_keeps_every_iterate():
    start, problem, prior = setup()
    trajectory = run_trajectory(problem, start, Adam(RATES), 6, prior, record=True)
    assert trajectory.record is not None
    for steps, evaluation in enumerate(trajectory.record):
        expected = run_trajectory(problem, start, Adam(RATES), steps, prior).theta
        assert torch.equal(evaluation.linearization.gaussians.flatten(), expected)


@pytest.mark.parametrize("loss", [MSE, ImageLoss(kind="mse"), ImageLoss()])
def test_hessian_product_is_the_derivative_of_the_gradient_and_symmetric(loss):
    start, problem, prior = setup(loss, bend=0.3)
    at = problem.evaluate(start)
    v, w = random_gaussians(4, 1, seed=3).flatten(), random_gaussians(4, 1, seed=4).flatten()
    product = hessian_product(at.linearization, at.loss, prior.strength, v)

    def gradient(flat):
        linearization = problem.linearize(start.unflatten(flat))
        image = linearization.vjp(at.loss.gradient_at(linearization.rgb)).flatten()
        return image + prior.strength * (flat - prior.anchor)

    step, flat = 1e-5, start.flatten()
    difference = (gradient(flat + step * v) - gradient(flat - step * v)) / (2 * step)
    torch.testing.assert_close(product, difference, rtol=1e-6, atol=1e-8 * float(difference.abs().max()))
    other = hessian_product(at.linearization, at.loss, prior.strength, w)
    assert float(w @ product) == pytest.approx(float(v @ other), rel=1e-9)


def test_runs_do_not_depend_on_the_number_of_threads():
    start, problem, prior = setup(ImageLoss(), dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    image = problem.evaluate(start)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            # torch's own matrix products may depend on the threads: only the solver's parts run here
            fixed = replace(problem, linearize=lambda g: image.linearization)
            results.append(run_trajectory(fixed, start, Adam(RATES), 5, prior))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0].theta, results[1].theta)
    assert results[0].loss_curve == results[1].loss_curve
