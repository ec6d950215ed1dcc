# SPDX-License-Identifier: Apache-2.0
"""`DifferentiableTTO` on dense problems: gradients against a dense solve and finite differences, limits, interfaces."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ns_diff3r.solver import DifferentiableTTO, ImageLoss, PCGConfig, TTOConfig, TTOStatus
from ns_diff3r.solver.config import LearningRates
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.splats import GROUPS, Cameras, Gaussians, Views
from tests.solver.dense_problem import DenseRenderer, random_gaussians

MSE = ImageLoss(kind="mse", ssim_weight=0.0)
TIGHT = PCGConfig(tolerance=1e-13, max_iterations=2000)
RATES = LearningRates(**dict.fromkeys(GROUPS, 0.02))
IMAGE = (2, 4, 5)


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Gaussians, Views, DenseRenderer]]:
    """Makes scenes whose renderer is a matrix, chosen by the number of Gaussians, and has the layer draw with it."""
    renderers: dict[int, DenseRenderer] = {}

    def make_linearizer(config, cameras, template):
        return renderers[template.num_gaussians]

    monkeypatch.setattr("ns_diff3r.solver.differentiable_tto.make_linearizer", make_linearizer)

    def make(
        num: int = 4,
        image: tuple[int, int, int] = IMAGE,
        unseen: tuple[int, ...] = (),
        bend: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Gaussians, Views, DenseRenderer]:
        init = random_gaussians(num, 1, seed=num, dtype=dtype)
        renderers[num] = DenseRenderer(init, image=image, seed=num, unseen=unseen, bend=bend)
        # Photographs must lie in [0, 1]; the dense renderer's do not care.
        images = torch.rand((*image, 3), generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)
        viewmats = torch.eye(4, dtype=dtype).repeat(image[0], 1, 1)
        Ks = torch.tensor([[5.0, 0, 2.5], [0, 5.0, 2.0], [0, 0, 1]], dtype=dtype).repeat(image[0], 1, 1)
        return init, Views(images, Cameras(viewmats, Ks, width=image[2], height=image[1])), renderers[num]

    return make


def config_of(**settings) -> TTOConfig:
    defaults = {"loss": MSE, "pcg": TIGHT, "learning_rates": RATES, "normalize_frame": False}
    return TTOConfig(**{**defaults, **settings})


def watched(init: Gaussians) -> Gaussians:
    return init.map(lambda leaf: leaf.clone().requires_grad_())


def strengths(init: Gaussians, seed: int = 3) -> Gaussians:
    """λ per parameter, between 0.1 and 1.1."""
    generator = torch.Generator().manual_seed(seed)
    return init.map(lambda leaf: torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype) + 0.1)


def gradients(
    layer: DifferentiableTTO, init: Gaussians, prior: Gaussians, context: Views, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(θ*, ∂L/∂θ⁰, ∂L/∂λ) of L = ⟨cotangent, θ*⟩, flat."""
    init, prior = watched(init), watched(prior)
    theta, _ = layer(init, prior, context)
    flat = theta.flatten()
    (flat * cotangent).sum().backward()
    start, multiplier = (g.map(lambda leaf: leaf.grad if leaf.grad is not None else leaf * 0) for g in (init, prior))
    return flat.detach(), start.detach().flatten(), multiplier.detach().flatten()


@pytest.mark.parametrize("frozen", [(), ("quats", "sh0")])
@pytest.mark.parametrize("loss", [MSE, ImageLoss(), ImageLoss(ssim_curvature="center")])
def test_gradients_equal_a_dense_solve(dense, loss, frozen):
    init, context, renderer = dense(bend=0.2)
    prior, cotangent = strengths(init), random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(loss=loss, num_steps=4, frozen_groups=frozen)).eval()
    theta, start, multiplier = gradients(layer, init, prior, context, cotangent)

    # D is the scene's own: mean of diag(JᵀWJ)/n at θ⁰ per group.
    at_start, at_end = renderer(init), renderer(init.unflatten(theta))
    n = context.images.numel()
    first = loss.linearize(at_start.rgb, context.images)
    scale = init.unflatten(torch.zeros_like(theta)).map(torch.zeros_like)
    diagonal = at_start.diagonal(first.curvature)
    scale = Gaussians(*(torch.full_like(leaf, float(leaf.mean()) / n) for leaf in diagonal.leaves())).flatten()
    strength = prior.flatten() * scale
    last = loss.linearize(at_end.rgb, context.images)
    full = NormalOperator(at_end, last.curvature, n, strength).dense()
    free = torch.ones_like(theta, dtype=torch.bool)
    for name in frozen:
        free[init.group_slices()[name]] = False
    u = torch.linalg.solve(full[free][:, free], cotangent[free])
    expected_start, expected_multiplier = torch.zeros_like(theta), torch.zeros_like(theta)
    expected_start[free] = strength[free] * u
    expected_start[~free] = cotangent[~free] - full[~free][:, free] @ u
    expected_multiplier[free] = -scale[free] * u * (theta - init.flatten())[free]
    tolerance = {"rtol": 1e-6, "atol": 1e-6 * float(expected_start.abs().max())}
    torch.testing.assert_close(start, expected_start, **tolerance)
    torch.testing.assert_close(multiplier, expected_multiplier, rtol=1e-6, atol=1e-6 * float(multiplier.abs().max()))
    assert float(multiplier[free].abs().max()) > 0


@pytest.mark.parametrize("frozen", [(), ("means", "shN")])
def test_gradients_equal_finite_differences_where_gauss_newton_is_exact(dense, frozen):
    """A linear MSE problem solved to stationarity, all coordinates of θ⁰ and λ, central differences of the layer."""
    init, context, _ = dense()
    prior, cotangent = strengths(init), random_gaussians(4, 1, seed=9).flatten()
    config = config_of(optimizer="gauss_newton", num_steps=3, frozen_groups=frozen)
    layer = DifferentiableTTO(config)
    layer.train()
    layer(init, prior, context)  # gives D a history, which eval keeps constant
    layer.eval()
    _, start, multiplier = gradients(layer, init, prior, context, cotangent)
    step = 1e-4
    for index in range(0, init.num_parameters, 3):
        unit = torch.zeros_like(cotangent)
        unit[index] = step

        def outer(theta0: Tensor, strength: Tensor) -> float:
            theta, solution = layer(init.unflatten(theta0), init.unflatten(strength), context)
            assert solution.stationarity < 1e-8
            return float(theta.flatten() @ cotangent)

        flat, strength = init.flatten(), prior.flatten()
        by_start = (outer(flat + unit, strength) - outer(flat - unit, strength)) / (2 * step)
        by_strength = (outer(flat, strength + unit) - outer(flat, strength - unit)) / (2 * step)
        assert by_start == pytest.approx(float(start[index]), rel=1e-4, abs=1e-7 * float(start.abs().max()))
        assert by_strength == pytest.approx(
            float(multiplier[index]), rel=1e-4, abs=1e-6 * float(multiplier.abs().max())
        )


def test_sign_of_the_gradient_to_the_prior(dense):
    """Where the outer loss wants to go further along θ* − θ⁰, the gradient is positive, so that descent lowers λ."""
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(optimizer="gauss_newton", num_steps=2)).eval()
    with torch.no_grad():
        displacement = layer(init, 0.5, context)[0].flatten() - init.flatten()
    strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    theta, _ = layer(init, strength, context)
    (-(theta.flatten() @ displacement)).backward()  # lower when θ* is further out
    assert strength.grad is not None
    assert float(strength.grad) > 0


def test_strong_prior_passes_the_gradient_through(dense):
    init, context, _ = dense()
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(optimizer="gauss_newton", num_steps=2)).eval()
    prior = strengths(init).map(lambda leaf: 1e7 * leaf)
    _, start, multiplier = gradients(layer, init, prior, context, cotangent)
    assert (start - cotangent).norm() < 1e-5 * cotangent.norm()
    assert multiplier.norm() < 1e-6


def test_weak_prior_loses_what_the_context_determines_and_keeps_what_it_does_not_see(dense):
    """Λ→0 with rank-deficient J: the component in range(Jᵀ) vanishes, the one in the null space passes through."""
    init, context, renderer = dense(num=20)
    assert renderer.matrix.shape[0] < renderer.matrix.shape[1]
    cotangent = random_gaussians(20, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(optimizer="gauss_newton", num_steps=2)).eval()
    layer.curvature_scale.update(torch.ones(1, 6, dtype=torch.float64))
    prior = init.map(lambda leaf: torch.full_like(leaf, 1e-8))
    _, start, _ = gradients(layer, init, prior, context, cotangent)
    matrix = renderer.matrix
    inside = matrix.T @ torch.linalg.solve(matrix @ matrix.T, matrix @ cotangent)
    assert (start - (cotangent - inside)).norm() < 1e-4 * cotangent.norm()
    assert inside.norm() > 0.3 * cotangent.norm()

    full_rank, context, renderer = dense(num=4)
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    prior = full_rank.map(lambda leaf: torch.full_like(leaf, 1e-8))
    _, start, _ = gradients(layer, full_rank, prior, context, cotangent)
    assert start.norm() < 1e-4 * cotangent.norm()


def test_unseen_gaussians_pass_their_gradient_through_exactly(dense):
    init, context, _ = dense(unseen=(1, 3))
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(num_steps=5)).eval()
    theta, start, multiplier = gradients(layer, init, strengths(init), context, cotangent)
    for name, leaf in init.unflatten(start).items():
        expected = getattr(init.unflatten(cotangent), name)
        torch.testing.assert_close(leaf[[1, 3]], expected[[1, 3]], rtol=1e-12, atol=0)
        assert not torch.allclose(leaf[[0, 2]], expected[[0, 2]], rtol=1e-3)
        assert not getattr(init.unflatten(multiplier), name)[[1, 3]].any()
        assert torch.equal(getattr(init.unflatten(theta), name)[[1, 3]], getattr(init, name)[[1, 3]])


def test_broadcast_priors_collect_the_gradients_of_their_parameters(dense):
    init, context, _ = dense()
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(num_steps=5)).eval()
    full = init.map(lambda leaf: torch.full_like(leaf, 0.4))
    _, _, multiplier = gradients(layer, init, full, context, cotangent)
    leaves = {name: torch.full((4, 1), 0.4, dtype=torch.float64, requires_grad=True) for name in GROUPS}
    theta, _ = layer(init, leaves, context)
    (theta.flatten() * cotangent).sum().backward()
    for name, leaf in init.unflatten(multiplier).items():
        gradient = leaves[name].grad
        assert gradient is not None
        torch.testing.assert_close(gradient, leaf.reshape(4, -1).sum(1, keepdim=True), rtol=1e-10, atol=1e-14)


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
