# SPDX-License-Identifier: Apache-2.0
"""The adjoint modes against torch's own unrolling of the same optimisation on the reference renderer, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ns_diff3r import render
from ns_diff3r.solver import BackwardConfig, DifferentiableTTO, ImageLoss, LearningRates, TTOConfig
from ns_diff3r.solver.backward import Adjoint, FinishedTTO
from ns_diff3r.solver.hessian import hessian_product
from ns_diff3r.solver.inner import SGD, Adam, run_trajectory
from ns_diff3r.solver.inner.protocol import copy_state
from ns_diff3r.solver.pcg import PCGConfig
from ns_diff3r.solver.prior import Prior
from ns_diff3r.splats import GROUPS, Gaussians, Views
from tests.scenes import make_scene, random_tangent
from tests.solver.dense_problem import DenseRenderer, dense_scene, random_gaussians
from tests.solver.layer_calls import MSE, config_of, gradients, strengths, watched

SIZE = (13, 15)
ADAM = LearningRates(**dict.fromkeys(GROUPS, 2e-3))
DESCENT = LearningRates(**dict.fromkeys(GROUPS, 0.3))
LOSSES = {"mse": MSE, "l1_ssim": ImageLoss(), "huber": ImageLoss(kind="huber", huber_delta=0.05, ssim_weight=0.0)}


def scene(num: int = 8, sh_degree: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Gaussians, Views]:
    gaussians, cameras = make_scene("generic", sh_degree=sh_degree, num_gaussians=num, size=SIZE)
    truth = gaussians.combine(lambda a, b: a + 0.1 * b, random_tangent(gaussians, 5))
    images = (0.9 * render(truth, cameras).rgb + 0.05).clamp(0, 1)
    return gaussians.to(dtype=dtype), Views(images, cameras).to(dtype=dtype)


def settings(optimizer: str, loss: str, mode: str, steps: int = 12, **more) -> TTOConfig:
    backward = BackwardConfig(**{k: more.pop(k) for k in ("hessian", "trajectory", "num_iterations") if k in more})
    return TTOConfig(
        num_steps=steps,
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rates=ADAM if optimizer == "adam" else DESCENT,
        loss=LOSSES[loss],
        backward_mode=mode,  # type: ignore[arg-type]
        backward=backward,
        backend="reference" if mode == "unroll" else "native",
        **more,
    )


def call(config: TTOConfig, init: Gaussians, context: Views, seed: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    cotangent = random_tangent(init, seed).flatten()
    prior = strengths(init.to(dtype=torch.float64)).to(dtype=init.dtype)  # the same numbers in both precisions
    return gradients(DifferentiableTTO(config).eval(), init, prior, context, cotangent)


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("loss", ["mse", "l1_ssim", "huber"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_exact_adjoint_is_the_unrolled_gradient(optimizer, loss):
    init, context = scene()
    unrolled = call(settings(optimizer, loss, "unroll"), init, context)
    adjoint = call(settings(optimizer, loss, "adjoint"), init, context)
    for actual, expected in zip(adjoint, unrolled, strict=True):
        assert error(actual, expected) < 1e-8
    first_order = random_tangent(init, 9).flatten()
    assert error(first_order, unrolled[1]) > 0.02  # the optimisation matters
    assert float(unrolled[2].norm()) > 0


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_frozen_groups_take_part_in_the_gradient_and_not_in_the_optimisation(optimizer):
    init, context = scene()
    frozen = {"frozen_groups": ("quats", "sh0"), "steps": 6}
    unrolled = call(settings(optimizer, "l1_ssim", "unroll", **frozen), init, context)
    adjoint = call(settings(optimizer, "l1_ssim", "adjoint", **frozen), init, context)
    for actual, expected in zip(adjoint, unrolled, strict=True):
        assert error(actual, expected) < 1e-8
    cotangent = random_tangent(init, 9).flatten()
    part = init.group_slices()["quats"]
    assert error(cotangent[part], unrolled[1][part]) > 1e-4  # H_fx ḡ
    assert not adjoint[2][part].any()


def test_without_a_prior():
    init, context = scene()
    results = []
    for mode in ("unroll", "adjoint", "first_order"):
        leaves = watched(init)
        theta, solution = DifferentiableTTO(settings("adam", "l1_ssim", mode, steps=6)).eval()(leaves, None, context)
        (theta.flatten() * random_tangent(init, 9).flatten()).sum().backward()
        results.append(torch.cat([leaf.grad.reshape(-1) for leaf in leaves.leaves()]))
        assert solution.backward.status == "completed"
    assert error(results[1], results[0]) < 1e-8
    assert error(results[2], results[0]) > 1e-2


@pytest.mark.parametrize("steps", [1, 2, 7, 9, 16])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_recomputation_gives_the_same_bits(optimizer, steps):
    init, context = scene(dtype=torch.float32)
    snapshots = call(settings(optimizer, "l1_ssim", "adjoint", steps), init, context)
    recomputed = call(settings(optimizer, "l1_ssim", "adjoint", steps, trajectory="recomputation"), init, context)
    for a, b in zip(snapshots, recomputed, strict=True):
        assert torch.equal(a, b)


def test_an_early_stop_is_differentiated_where_it_stopped():
    init, context = scene()
    more = {"stationarity_tolerance": 0.8, "steps": 20}
    unrolled = call(settings("adam", "mse", "unroll", **more), init, context)
    for trajectory in ("snapshots", "recomputation"):
        config = settings("adam", "mse", "adjoint", trajectory=trajectory, **more)
        assert 0 < DifferentiableTTO(config).eval()(init, 1.0, context)[1].num_steps < 20
        assert error(call(config, init, context)[1], unrolled[1]) < 1e-8


@pytest.mark.parametrize("mode", ["adjoint", "unroll"])
def test_invisible_gaussians_pass_their_gradient_through_exactly(mode):
    init, context = scene(sh_degree=0)
    away = init.means.clone()
    away[[1, 4], 2] -= 100.0
    init = replace(init, means=away)
    config = replace(settings("adam", "l1_ssim", mode, steps=5), normalize_frame=False)
    theta, start, multiplier = call(config, init, context)
    cotangent = init.unflatten(random_tangent(init, 9).flatten())
    for (name, leaf), strength in zip(init.unflatten(start).items(), init.unflatten(multiplier).leaves(), strict=True):
        assert torch.equal(leaf[[1, 4]], getattr(cotangent, name)[[1, 4]])
        assert not strength[[1, 4]].any()
    assert torch.isfinite(start).all()
    assert torch.isfinite(multiplier).all()
    assert torch.equal(init.unflatten(theta).means[[1, 4]], init.means[[1, 4]])


@pytest.mark.parametrize("loss", ["mse", "l1_ssim"])
def test_finite_differences_in_float32(loss):
    init, context = scene(num=12)
    exact = call(settings("adam", loss, "adjoint"), init, context)
    double = call(settings("adam", loss, "adjoint", hessian="finite_difference"), init, context)
    init, context = scene(num=12, dtype=torch.float32)
    single = call(settings("adam", loss, "adjoint", hessian="finite_difference"), init, context)
    for expected, fine, coarse in zip(exact, double, single, strict=True):
        assert error(fine, expected) < 1e-5
        assert error(coarse.double(), expected) < 1e-2


def test_float32_agrees_with_float64():
    init, context = scene(num=12)
    exact = call(settings("adam", "l1_ssim", "adjoint"), init, context)
    init, context = scene(num=12, dtype=torch.float32)
    single = call(settings("adam", "l1_ssim", "adjoint"), init, context)
    for expected, actual in zip(exact, single, strict=True):
        assert error(actual.double(), expected) < 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_all_products_agree_on_a_quadratic_problem(dense, optimizer):
    init, context, _ = dense()
    results = []
    for hessian in ("exact", "finite_difference", "gauss_newton"):
        backward = BackwardConfig(hessian=hessian)
        config = config_of(optimizer=optimizer, num_steps=9, backward_mode="adjoint", backward=backward)
        results.append(call(config, init, context))
    for other in results[1:]:
        for actual, expected in zip(other, results[0], strict=True):
            assert error(actual, expected) < 1e-7


def test_gauss_newton_leaves_out_the_curvature_of_the_renderer(dense):
    init, context, _ = dense(bend=0.5)
    exact, approximate = (
        call(config_of(num_steps=9, backward_mode="adjoint", backward=BackwardConfig(hessian=hessian)), init, context)
        for hessian in ("exact", "gauss_newton")
    )
    assert 1e-3 < error(approximate[1], exact[1]) < 0.5


def test_truncated_is_between_first_order_and_the_adjoint():
    init, context = scene()
    first_order = call(settings("adam", "l1_ssim", "first_order"), init, context)
    none = call(settings("adam", "l1_ssim", "truncated", num_iterations=0), init, context)
    assert torch.equal(none[1], first_order[1])
    assert not none[2].any()
    adjoint = call(settings("adam", "l1_ssim", "adjoint"), init, context)
    for count in (12, 50):
        every = call(settings("adam", "l1_ssim", "truncated", num_iterations=count), init, context)
        assert torch.equal(every[1], adjoint[1])
        assert torch.equal(every[2], adjoint[2])


@pytest.mark.parametrize("trajectory", ["snapshots", "recomputation"])
@pytest.mark.parametrize("optimizer", [Adam(dict.fromkeys(GROUPS, 0.02)), SGD(dict.fromkeys(GROUPS, 0.3))])
def test_truncated_is_the_adjoint_of_the_last_steps(optimizer, trajectory):
    """The adjoint of a run of N steps from θ_{K−N}, with the state it has there and the prior of the whole."""
    start = random_gaussians(4, 1)
    problem = dense_scene(start, DenseRenderer(start, bend=0.3), ImageLoss(), noise=0.5)
    prior = Prior(
        start.flatten().clone(), torch.full((start.num_parameters,), 0.1).double(), [1.0] * 6, start.group_slices()
    )
    cotangent = random_gaussians(4, 1, seed=9).flatten()

    def adjoint(begin: Gaussians, mode: str, steps: int, **more):
        from ns_diff3r.solver.backward import make_backward_pass
        from ns_diff3r.solver.backward.protocol import BackwardMode
        from ns_diff3r.solver.inner import rerun_steps

        def rerun(theta, state, first, count, observer):
            state = state or optimizer.init(start)
            rerun_steps(problem, start, optimizer, prior, frozenset(), theta, state, first, count, observer)

        config = BackwardConfig(num_iterations=4, trajectory=trajectory if mode == "truncated" else "snapshots")
        backward = make_backward_pass(BackwardMode(mode), config)
        tape = backward.observer(rerun, steps)
        run = run_trajectory(problem, begin, optimizer, steps, prior, observer=tape, **more)
        run.loss_curve[:0] = [0.0] * more.get("first_step", 0)  # steps are numbered from the first run's first
        finished = FinishedTTO(problem, start, prior, run, frozenset(), PCGConfig(), optimizer=optimizer, observer=tape)
        return backward(finished, cotangent)

    truncated = adjoint(start, "truncated", 9)
    head = run_trajectory(problem, start, optimizer, 5, prior)
    tail = adjoint(start.unflatten(head.theta), "adjoint", 4, state=copy_state(head.state), first_step=5)
    assert error(truncated.start, tail.start) < 1e-12
    assert error(truncated.multiplier, tail.multiplier) < 1e-12
    assert truncated.info.iterations == 4


def test_gradient_descent_in_the_limit_is_the_implicit_gradient_with_the_exact_hessian():
    """A strictly convex problem: (∇²L_in) u = g, ∂L/∂θ⁰ = Λu, ∂L/∂λ = −D u (θ* − θ⁰)."""
    start = random_gaussians(2, 0)
    problem = dense_scene(start, DenseRenderer(start, bend=0.2), MSE, noise=0.3)
    scale = [1.0, 0.5, 2.0, 1.0, 3.0, 0.1]
    prior = Prior(
        start.flatten().clone(), torch.full((start.num_parameters,), 0.1).double(), scale, start.group_slices()
    )
    optimizer = SGD(dict.fromkeys(GROUPS, 1.0))
    backward = Adjoint(BackwardConfig())
    tape = backward.observer(lambda *_: None, 1500)
    run = run_trajectory(problem, start, optimizer, 1500, prior, observer=tape)
    assert run.stationarity < 1e-12
    cotangent = random_gaussians(2, 0, seed=9).flatten()
    finished = FinishedTTO(problem, start, prior, run, frozenset(), PCGConfig(), optimizer=optimizer, observer=tape)
    result = backward(finished, cotangent)

    at = problem.evaluate(start.unflatten(run.theta))
    columns = [
        hessian_product(at.linearization, at.loss, prior.strength, unit) for unit in torch.eye(len(cotangent)).double()
    ]
    hessian = torch.stack(columns, dim=1)
    assert float(torch.linalg.eigvalsh(hessian).min()) > 0
    u = torch.linalg.solve(hessian, cotangent)
    assert error(result.start, prior.strength * u) < 1e-8
    assert error(result.multiplier, -prior.times_scale(u * (run.theta - prior.anchor))) < 1e-8
    gauss_newton = torch.linalg.solve(finished.operator.dense(), cotangent)
    assert error(gauss_newton, u) > 1e-3


@pytest.mark.parametrize("mode", ["adjoint", "first_order"])
def test_overflowing_gradients_come_out_non_finite(dense, mode):
    init, context, _ = dense()
    leaves = watched(init)
    theta, solution = DifferentiableTTO(config_of(num_steps=2, backward_mode=mode)).eval()(leaves, 0.5, context)
    (theta.means.sum() * math.inf).backward()
    assert solution.backward.status == "non_finite_gradient"
    assert not torch.isfinite(leaves.means.grad).any()


def test_mode_none_gives_a_constant(dense):
    init, context, _ = dense()
    theta, _ = DifferentiableTTO(config_of(num_steps=2, backward_mode="none")).eval()(watched(init), 0.5, context)
    assert not theta.requires_grad


def test_nothing_is_kept_where_no_gradient_is_wanted(dense, monkeypatch):
    init, context, _ = dense()
    monkeypatch.setattr(Adjoint, "observer", lambda *_: pytest.fail("a tape was made"))
    layer = DifferentiableTTO(config_of(num_steps=2, backward_mode="adjoint")).eval()
    layer(init, 0.5, context)
    with torch.no_grad():
        layer(watched(init), 0.5, context)
