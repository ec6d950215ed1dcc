# SPDX-License-Identifier: Apache-2.0
"""The layer on rendered scenes: its gradient against float64 finite differences through a stationary inner loop.

The decisions of the renderer (order, lists, contributing pairs, caps) are frozen where differences are taken: test-time
optimisation itself jumps where they change.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ns_diff3r import render
from ns_diff3r.rasterization import linearize
from ns_diff3r.rasterization.protocol import Linearization
from ns_diff3r.solver import DifferentiableTTO, ImageLoss, PCGConfig, TTOConfig
from ns_diff3r.solver.backward import FinishedTTO, Implicit
from ns_diff3r.solver.hessian import hessian_product
from ns_diff3r.solver.image_loss import ImageObjective
from ns_diff3r.solver.inner import GaussNewton, Trajectory, run_trajectory
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.prior import Prior
from ns_diff3r.solver.problem import SceneProblem
from ns_diff3r.splats import Cameras, Gaussians, Views
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.spherical_harmonics import spherical_harmonics
from tests.scenes import make_scene, random_tangent

MSE = ImageLoss(kind="mse", ssim_weight=0.0)
TIGHT = PCGConfig(tolerance=1e-13, max_iterations=3000)
SIZE = (19, 23)


def scene(num: int = 12, sh_degree: int = 1) -> tuple[Gaussians, Cameras]:
    gaussians, cameras = make_scene("generic", sh_degree=sh_degree, num_gaussians=num, size=SIZE)
    means, quats, scales, opacities, sh0, shN = gaussians.leaves()
    return Gaussians(means, quats, scales, opacities, 0.3 * sh0, 0.2 * shN), cameras  # colours far from zero


def colours(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    directions = gaussians.means[None] - cameras.centers[:, None]
    sh = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    return 0.5 + spherical_harmonics(gaussians.sh_degree, directions, sh.expand(cameras.num_views, *sh.shape))


def test_only_colours_free_equals_finite_differences_through_the_layer():
    """(a) MSE in sh0 and shN is a linear problem: Gauss-Newton is exact, the implicit gradient is the gradient."""
    init, cameras = scene()
    noise = torch.rand(2, *SIZE, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    context = Views((0.7 * render(init, cameras).rgb + 0.15 * noise).clamp(0, 1), cameras)
    targets, _ = make_scene("generic", num_gaussians=12, size=SIZE, seed=1)
    config = TTOConfig(
        loss=MSE,
        pcg=TIGHT,
        optimizer="gauss_newton",
        num_steps=3,
        frozen_groups=("means", "quats", "scales", "opacities"),
    )
    layer = DifferentiableTTO(config)
    layer(init, 0.5, context)  # training mode: D has a history
    layer.eval()

    def outer(theta0: Gaussians, prior: Gaussians) -> tuple[Tensor, Gaussians]:
        theta, solution = layer(theta0, prior, context)
        assert solution.stationarity < 1e-8
        return ((render(theta, cameras).rgb - 0.4) ** 2).sum() + 0.1 * (theta.shN * targets.shN).sum(), theta

    prior = init.map(lambda leaf: 0.3 + 0.5 * torch.rand(leaf.shape, dtype=leaf.dtype)).requires_grad_()
    start = init.clone().requires_grad_()
    loss, theta = outer(start, prior)
    assert float(colours(theta.detach(), cameras).min()) > 0.05
    loss.backward()
    step = 1e-4
    for group in ("sh0", "shN"):
        for leaf, which in ((getattr(start, group), 0), (getattr(prior, group), 1)):
            gradient = leaf.grad
            differences, entries = [], range(0, leaf.numel(), 5)
            for index in entries:
                values = []
                for sign in (1, -1):
                    moved = leaf.detach().clone()
                    moved.view(-1)[index] += sign * step
                    pair = [start.detach(), prior.detach()]
                    pair[which] = replace(pair[which], **{group: moved})
                    with torch.no_grad():
                        values.append(float(outer(*pair)[0]))
                differences.append((values[0] - values[1]) / (2 * step))
            expected = torch.tensor(differences, dtype=torch.float64)
            actual = gradient.view(-1)[list(entries)]
            assert (actual - expected).norm() < 1e-4 * expected.norm()


def frozen_problem(problem: SceneProblem, base: Linearization) -> SceneProblem:
    return SceneProblem(problem.objective, base.at)


def stationary_run(problem: SceneProblem, start: Gaussians, prior: Prior) -> Trajectory:
    trajectory = run_trajectory(problem, start, GaussNewton(TIGHT), 40, prior, stationarity_tolerance=1e-9)
    assert trajectory.stationarity < 1e-8
    return trajectory


def test_all_groups_free_error_falls_with_the_residual():
    """(b) Targets rendered from θ⁰ + δ: the neglected second-order term, and with it the error, is O(δ)."""
    init, cameras = scene(num=8)
    direction = random_tangent(init, seed=2)
    cotangent = random_tangent(init, seed=3).flatten()
    errors = []
    for delta in (3e-2, 3e-3, 3e-4):
        target = render(init.combine(lambda a, b, d=delta: a + d * b, direction), cameras).rgb
        problem = SceneProblem(ImageObjective(MSE, target), lambda g: linearize(g, cameras, freeze="pairs"))
        multiplier = 0.05 + 0.1 * torch.rand(init.num_parameters, generator=torch.Generator().manual_seed(4)).double()
        prior = Prior(init.flatten(), multiplier, [0.1, 0.01, 0.02, 0.01, 0.01, 0.01], init.group_slices())
        live = stationary_run(problem, init, prior)
        frozen = frozen_problem(problem, linearize(init.unflatten(live.theta), cameras, freeze="pairs"))
        run = stationary_run(frozen, init, prior)
        result = Implicit()(FinishedTTO(frozen, init, prior, run, frozenset(), TIGHT), cotangent)
        assert result.multiplier is not None

        def outer(anchor: Tensor, strength: Tensor, problem=frozen, prior=prior) -> float:
            own = Prior(anchor, strength, prior.scale, prior.slices)
            return float(stationary_run(problem, init.unflatten(anchor), own).theta @ cotangent)

        directions = [random_tangent(init, seed=10 + k).flatten() for k in range(3)]
        directions = torch.stack([*directions, result.start / result.start.norm(), result.multiplier.sign()])
        steps = 1e-2 * delta * directions
        theta0 = init.flatten()
        by_start = [0.5 * (outer(theta0 + s, multiplier) - outer(theta0 - s, multiplier)) for s in steps]
        start_error = _relative(steps @ result.start, by_start)
        steps = 1e-2 * multiplier * directions.sign()
        by_multiplier = [0.5 * (outer(theta0, multiplier + s) - outer(theta0, multiplier - s)) for s in steps]
        errors.append((start_error, _relative(steps @ result.multiplier, by_multiplier)))
    for coarse, fine in itertools.pairwise(errors):
        assert fine[0] < 0.5 * coarse[0]
        assert fine[1] < 0.5 * coarse[1]
    assert max(errors[-1]) < 1e-2


def _relative(actual: Tensor, expected: list[float]) -> float:
    wanted = torch.tensor(expected, dtype=torch.float64)
    return float((actual - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("loss", [MSE, ImageLoss(ssim_curvature="center"), ImageLoss()])
def test_operator_and_exact_hessian_of_a_rendered_scene(loss):
    """vᵀAv = ‖√W J v‖²/n + vᵀΛv, A and ∇²L_in symmetric, ∇²L_in v = d/dε of the frozen gradient."""
    gaussians, cameras = scene()
    target = render(gaussians.combine(lambda a, b: a + 0.1 * b, random_tangent(gaussians, 5)), cameras).rgb
    linearization = linearize(gaussians, cameras, freeze="pairs")
    at = loss.linearize(linearization.rgb, target)
    strength = 1e-3 * random_tangent(gaussians, 6).flatten().abs()
    operator = NormalOperator(linearization, at.curvature, target.numel(), strength)
    v, w = (random_tangent(gaussians, seed).flatten() for seed in (7, 8))
    image = linearization.jvp(gaussians.unflatten(v))
    weighted = at.curvature * image if isinstance(at.curvature, Tensor) else at.curvature(image)
    form = float((image * weighted).sum()) / target.numel() + float(v**2 @ strength)
    assert float(v @ operator(v)) == pytest.approx(form, rel=1e-10)
    assert float(w @ operator(v)) == pytest.approx(float(v @ operator(w)), rel=1e-9)

    product = hessian_product(linearization, at, strength, v)
    assert float(w @ product) == pytest.approx(float(v @ hessian_product(linearization, at, strength, w)), rel=1e-9)

    def gradient(step: float) -> Tensor:
        moved = linearization.at(gaussians.unflatten(gaussians.flatten() + step * v))
        return moved.vjp(at.gradient_at(moved.rgb)).flatten() + step * strength * v

    difference = (gradient(1e-6) - gradient(-1e-6)) / 2e-6
    assert (product - difference).norm() < 1e-6 * difference.norm()


def test_a_whole_call_does_not_depend_on_the_number_of_threads():
    init, cameras = (x.to(dtype=torch.float32) for x in scene(num=40))
    target = render(scene(num=30)[0].to(dtype=torch.float32), cameras).rgb.clamp(0, 1)
    layer = DifferentiableTTO(TTOConfig(num_steps=10)).eval()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = init.clone().requires_grad_()
            theta, solution = layer(leaves, 0.5, Views(target, cameras))
            (theta.flatten() ** 2).sum().backward()
            gradients = [leaf.grad for leaf in leaves.leaves()]
            results.append((solution.loss_curve, solution.backward.residual_history, theta.flatten(), *gradients))
    finally:
        torch.set_num_threads(before)
    for losses, residuals, *tensors in results[1:]:
        assert losses == results[0][0]
        assert residuals == results[0][1]
        assert all(torch.equal(a, b) for a, b in zip(tensors, results[0][2:], strict=True))


def test_rescaling_the_world_changes_nothing_but_its_units():
    init, cameras = scene()
    target = render(scene(num=10)[0], cameras).rgb.clamp(0, 1)
    similarity = Similarity(
        torch.tensor(10.0).double(), torch.eye(3).double(), torch.tensor([3.0, -20.0, 7.0]).double()
    )
    layer = DifferentiableTTO(TTOConfig(num_steps=15)).eval()
    outcomes = []
    for frame in (Similarity.identity(torch.float64), similarity):
        leaves, moved = init.clone().requires_grad_(), frame.apply_cameras(cameras)
        theta, solution = layer(frame.apply_gaussians(leaves), 0.5, Views(target, moved))
        rendered = render(theta, moved).rgb
        ((rendered - target) ** 2).mean().backward()
        outcomes.append((solution, theta.detach(), rendered.detach(), [leaf.grad for leaf in leaves.leaves()]))
    (solution, theta, rendered, gradients), (big, big_theta, big_rendered, big_gradients) = outcomes
    assert big.loss_curve == pytest.approx(solution.loss_curve, rel=1e-9)
    assert big.stationarity == pytest.approx(solution.stationarity, rel=1e-6)
    assert big.curvature_scale == pytest.approx(solution.curvature_scale, rel=1e-9)
    torch.testing.assert_close(big_rendered, rendered, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(similarity.apply_gaussians(theta).flatten(), big_theta.flatten(), rtol=1e-8, atol=1e-8)
    for a, b in zip(gradients, big_gradients, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


def test_batch_of_two_rendered_scenes_of_different_size():
    first, cameras = scene()
    second, other = make_scene("generic", sh_degree=0, num_gaussians=30, num_views=1, size=(24, 20))
    inits = [g.to(dtype=torch.float32).clone().requires_grad_() for g in (first, second)]
    contexts = [
        Views(torch.full((c.num_views, c.height, c.width, 3), 0.4), c.to(dtype=torch.float32)) for c in (cameras, other)
    ]
    layer = DifferentiableTTO(TTOConfig(num_steps=5))
    thetas, solution = layer(inits, 1.0, contexts)
    sum(render(t, v.cameras).rgb.mean() for t, v in zip(thetas, contexts, strict=True)).backward()
    for init, report in zip(inits, solution.scenes, strict=True):
        assert all(torch.isfinite(leaf.grad).all() for leaf in init.leaves())
        assert report.loss_curve[-1] < report.loss_curve[0]
        assert report.backward is not None
        assert report.backward.residual < 1.0


def test_backends_agree():
    """The compiled renderer and the dense oracle, through five Adam steps and the implicit solve."""
    init, cameras = scene(num=6)
    target = render(scene(num=10)[0], cameras).rgb.clamp(0, 1)
    outcomes = []
    for backend in ("native", "reference"):
        leaves = init.clone().requires_grad_()
        layer = DifferentiableTTO(TTOConfig(num_steps=5, backend=backend, pcg=TIGHT)).eval()
        theta, solution = layer(leaves, 0.5, Views(target, cameras))
        (theta.flatten() ** 2).sum().backward()
        outcomes.append((theta.detach().flatten(), torch.cat([leaf.grad.reshape(-1) for leaf in leaves.leaves()])))
        assert solution.backward.status == "converged"
    for native, reference in zip(*outcomes, strict=True):
        assert (native - reference).norm() < 1e-7 * reference.norm()


def test_no_gaussian_in_view_is_one_clear_error():
    init, cameras = scene()
    behind = replace(init, means=init.means - torch.tensor([0.0, 0.0, 100.0], dtype=torch.float64))
    views = Views(torch.zeros(2, *SIZE, 3, dtype=torch.float64), cameras)
    for normalize in (True, False):
        layer = DifferentiableTTO(TTOConfig(normalize_frame=normalize))
        with pytest.raises(ValueError, match="none of 12 Gaussians"):
            layer(behind, 0.5, views)


def test_an_isotropic_initialisation_whose_rotations_nothing_sees_is_well_posed():
    init, cameras = scene()
    init = replace(
        init,
        scales=init.scales[:, :1].expand(-1, 3).clone(),
        quats=torch.tensor([1.0, 0, 0, 0]).double().expand(12, 4).clone(),
    )
    leaves = init.clone().requires_grad_()
    views = Views(torch.full((2, *SIZE, 3), 0.5, dtype=torch.float64), cameras)
    theta, solution = DifferentiableTTO(TTOConfig(num_steps=5))(leaves, 0.5, views)
    (theta.flatten() ** 2).sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.leaves())
    assert all(value > 0 for value in solution.curvature_scale.values())
