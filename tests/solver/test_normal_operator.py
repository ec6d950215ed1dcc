# SPDX-License-Identifier: Apache-2.0
"""A = (1/n) JᵀWJ + Λ: quadratic form, symmetry, diagonal, blocks, frozen groups; and the preconditioners made of it."""

import pytest
import torch

from ns_diff3r.rasterization.protocol import GaussianBlocks
from ns_diff3r.solver import preconditioners
from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.preconditioners import BlockJacobi, Jacobi, make_preconditioner
from tests.solver.dense_problem import DenseRenderer, block_indices, random_gaussians

LOSSES = [ImageLoss(kind="mse", ssim_weight=0.0), ImageLoss(ssim_curvature="center"), ImageLoss()]


def operator_of(
    loss: ImageLoss, num: int = 4, sh_degree: int = 1, frozen: tuple[str, ...] = (), strength: float | None = 0.01
) -> NormalOperator:
    theta = random_gaussians(num, sh_degree)
    linearization = DenseRenderer(theta)(theta)
    target = linearization.rgb + 0.1 * torch.rand(
        linearization.rgb.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    linearized = loss.linearize(linearization.rgb, target)
    spread = torch.linspace(0.5, 2.0, theta.num_parameters, dtype=torch.float64)
    prior = None if strength is None else strength * spread
    return NormalOperator(linearization, linearized.curvature, target.numel(), prior, frozen)


def dense_weights(operator: NormalOperator) -> torch.Tensor:
    size, shape = operator.num_residuals, operator.linearization.rgb.shape
    if isinstance(operator.weights, torch.Tensor):
        return operator.weights.reshape(-1).diag()
    units = torch.eye(size, dtype=torch.float64)
    return torch.stack([operator.weights(unit.view(shape)).reshape(-1) for unit in units], dim=1)


@pytest.mark.parametrize("loss", LOSSES)
def test_operator_is_its_definition(loss):
    operator = operator_of(loss)
    jacobian = operator.linearization.jacobian
    expected = jacobian.T @ dense_weights(operator) @ jacobian / operator.num_residuals + operator.strength.diag()
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(operator.dense(), operator.dense().T, rtol=1e-9, atol=1e-13)
    v = random_gaussians(4, 1, seed=8).flatten()
    image = jacobian @ v
    form = float(image @ dense_weights(operator) @ image) / operator.num_residuals + float(v**2 @ operator.strength)
    assert float(v @ operator(v)) == pytest.approx(form, rel=1e-11)
    assert torch.equal(operator(v), operator(v.clone()))  # and v itself is left alone


@pytest.mark.parametrize("loss", LOSSES[:2])
def test_diagonal_is_exact_for_diagonal_weights(loss):
    operator = operator_of(loss)
    torch.testing.assert_close(operator.diagonal(), operator.dense().diagonal(), rtol=1e-10, atol=1e-14)


def test_frozen_groups_are_cut_out():
    full, cut = operator_of(LOSSES[0]), operator_of(LOSSES[0], frozen=("quats", "shN"))
    free = cut.mask_(torch.ones(cut.size, dtype=torch.float64)).bool()
    assert int((~free).sum()) == 4 * (4 + 9)
    expected = full.dense() * free[:, None] * free[None, :]
    torch.testing.assert_close(cut.dense(), expected, rtol=1e-12, atol=1e-15)
    assert not cut.diagonal()[~free].any()
    v = random_gaussians(4, 1, seed=8).flatten()
    everything = full(v) - full.strength * v
    torch.testing.assert_close(cut.data_term(v), everything, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("implementation", ["native", "torch"])
@pytest.mark.parametrize("frozen", [(), ("scales",), ("sh0", "opacities")])
@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_block_jacobi_inverts_the_blocks(sh_degree, frozen, implementation, monkeypatch):
    if implementation == "torch":
        monkeypatch.setattr(preconditioners, "is_native", lambda tensor: False)
    operator = operator_of(LOSSES[0], num=19, sh_degree=sh_degree, frozen=frozen)
    dense = operator.dense()
    kept = torch.zeros_like(dense, dtype=torch.bool)
    geometry, colour = block_indices(operator.template)
    for rows in (*geometry, *colour.reshape(-1, colour.shape[-1])):
        kept[rows[:, None], rows[None, :]] = True
    free = operator.mask_(torch.ones(operator.size, dtype=torch.float64))
    blocks = torch.where(kept, dense, 0.0) + torch.diag(1 - free)
    r = operator.mask_(random_gaussians(19, sh_degree, seed=4).flatten())
    z = torch.full_like(r, 7.0)
    preconditioner = BlockJacobi(operator, geometric_mean=False)
    product = preconditioner.solve(r, z)
    torch.testing.assert_close(z, torch.linalg.solve(blocks, r), rtol=1e-8, atol=1e-9)
    assert product == pytest.approx(float(r @ z), rel=1e-11)
    assert preconditioner.num_clamped == 0

    # The geometric mean G of Λ and the blocks is the solution of G Λ⁻¹ G = blocks: G⁻¹ blocks G⁻¹ r = Λ⁻¹ r.
    mean = BlockJacobi(operator, geometric_mean=True)
    assert mean.solve(r, z) == pytest.approx(float(r @ z), rel=1e-11)
    again = torch.empty_like(z)
    mean.solve(operator.mask_(blocks @ z), again)
    torch.testing.assert_close(again, r / operator.strength, rtol=1e-8, atol=1e-8 * float(again.abs().max()))


def test_jacobi_is_the_diagonal_or_its_geometric_mean_with_the_prior():
    operator = operator_of(LOSSES[0])
    r, z = random_gaussians(4, 1, seed=4).flatten(), torch.empty(operator.size, dtype=torch.float64)
    make_preconditioner("jacobi", operator, geometric_mean=False).solve(r, z)
    torch.testing.assert_close(z, r / operator.diagonal(), rtol=1e-12, atol=0)
    make_preconditioner("jacobi", operator).solve(r, z)
    torch.testing.assert_close(z, r / (operator.diagonal() * operator.strength).sqrt(), rtol=1e-12, atol=0)
    without = operator_of(LOSSES[0], strength=None)
    make_preconditioner("jacobi", without).solve(r, z)
    torch.testing.assert_close(z, r / without.diagonal(), rtol=1e-12, atol=0)


def test_jacobi_leaves_empty_rows_alone():
    preconditioner = Jacobi(torch.tensor([4.0, 0.0, 0.5], dtype=torch.float64))
    r, z = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    assert preconditioner.solve(r, z) == pytest.approx(0.25 + 4.0 + 18.0)
    torch.testing.assert_close(z, torch.tensor([0.25, 2.0, 6.0], dtype=torch.float64))


@pytest.mark.parametrize("implementation", ["native", "torch"])
@pytest.mark.parametrize(("strength", "geometric_mean"), [(None, False), (1e-12, False), (1e-12, True)])
def test_singular_blocks_stay_positive_definite(strength, geometric_mean, implementation, monkeypatch):
    """A Gaussian that three residuals see has blocks of rank 3, beside which float32 does not see a tiny Λ."""
    if implementation == "torch":
        monkeypatch.setattr(preconditioners, "is_native", lambda tensor: False)
    theta = random_gaussians(40, 2, dtype=torch.float32)
    linearization = DenseRenderer(theta, image=(1, 1, 1), unseen=(7,))(theta)
    prior = None if strength is None else torch.full((theta.num_parameters,), strength)
    operator = NormalOperator(linearization, torch.ones_like(linearization.rgb), 3, prior)
    preconditioner = BlockJacobi(operator, geometric_mean)
    assert preconditioner.num_clamped > 0 or strength is not None
    for seed in range(3):
        r = random_gaussians(40, 2, seed=seed, dtype=torch.float32).flatten()
        z = torch.empty_like(r)
        assert preconditioner.solve(r, z) > 0
        assert torch.isfinite(z).all()


def test_block_solves_do_not_depend_on_the_number_of_threads():
    theta = random_gaussians(1200, 1, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(1200, 11, 11, generator=generator)
    blocks = root @ root.transpose(1, 2)
    colour = torch.rand(1200, 3, 4, 4, generator=generator) + 4 * torch.eye(4)
    linearization = DenseRenderer(theta, image=(1, 1, 1))(theta)
    operator = NormalOperator(linearization, torch.ones(1, 1, 1, 3), 3, theta.flatten() ** 2)
    operator.blocks = lambda: GaussianBlocks(blocks, colour + colour.transpose(2, 3))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            preconditioner, z = BlockJacobi(operator, True), torch.empty(theta.num_parameters)
            results.append((preconditioner.num_clamped, preconditioner.solve(theta.flatten(), z), z))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert result[:2] == results[0][:2]
        assert torch.equal(result[2], results[0][2])
