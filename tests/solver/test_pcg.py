# SPDX-License-Identifier: Apache-2.0
"""Conjugate gradients against dense solves, and every way in which a solve can end."""

import math

import pytest
import torch

from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.pcg import PCGConfig, PCGStatus, pcg
from ns_diff3r.solver.preconditioners import Identity, PreconditionerKind, make_preconditioner
from tests.solver.dense_problem import DenseRenderer, random_gaussians

PRECONDITIONERS: tuple[PreconditionerKind, ...] = ("none", "jacobi", "block_jacobi")


def system(dtype: torch.dtype = torch.float64, strength: float = 1e-2) -> tuple[NormalOperator, torch.Tensor]:
    theta = random_gaussians(6, 1, dtype=dtype)
    linearization = DenseRenderer(theta)(theta)
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(linearization.rgb.shape, generator=generator, dtype=torch.float64).to(dtype)
    scale = torch.logspace(-1, 1, theta.num_parameters, dtype=dtype)
    linearization.jacobian = linearization.jacobian * scale  # groups of very different units
    rhs = torch.randn(theta.num_parameters, generator=generator, dtype=torch.float64).to(dtype)
    return NormalOperator(linearization, weights, weights.numel(), strength * scale**2), rhs


@pytest.mark.parametrize("kind", PRECONDITIONERS)
def test_solution_equals_the_dense_solve(kind):
    operator, rhs = system()
    config = PCGConfig(preconditioner=kind, tolerance=1e-12, max_iterations=3000)
    result = pcg(operator, rhs, config, make_preconditioner(kind, operator))
    assert result.status is PCGStatus.CONVERGED
    expected = torch.linalg.solve(operator.dense(), rhs)
    torch.testing.assert_close(result.solution, expected, rtol=1e-7, atol=1e-8 * float(expected.abs().max()))
    assert len(result.residual_history) == result.iterations + 1
    assert result.residual_history[0] == 1.0
    assert result.residual == result.residual_history[-1] <= 1e-12


def test_preconditioning_pays():
    operator, rhs = system()
    config = PCGConfig(tolerance=1e-6, max_iterations=3000)
    counts = [pcg(operator, rhs, config, make_preconditioner(kind, operator)).iterations for kind in PRECONDITIONERS]
    assert counts[0] > counts[1] >= counts[2]


@pytest.mark.parametrize("kind", PRECONDITIONERS)
def test_reported_residual_is_the_true_one(kind):
    operator, rhs = system()
    preconditioner = make_preconditioner(kind, operator)
    for cap in (1, 4, 9):
        config = PCGConfig(preconditioner=kind, tolerance=1e-9, max_iterations=cap)
        result = pcg(operator, rhs, config, preconditioner)
        assert result.status is PCGStatus.MAX_ITERATIONS
        assert result.iterations == cap
        residual, z = rhs - operator(result.solution), torch.empty_like(rhs)
        true = math.sqrt(preconditioner.solve(residual, z) / preconditioner.solve(rhs, z))
        assert result.residual == pytest.approx(true, rel=1e-6)


def test_single_precision_reaches_its_tolerance_with_refreshed_residuals():
    operator, rhs = system(torch.float32)
    preconditioner = make_preconditioner("block_jacobi", operator)
    result = pcg(operator, rhs, PCGConfig(tolerance=1e-4, max_iterations=500, refresh_every=10), preconditioner)
    assert result.status is PCGStatus.CONVERGED
    z = torch.empty_like(rhs)
    true = preconditioner.solve(rhs - operator(result.solution), z) / preconditioner.solve(rhs, z)
    assert math.sqrt(true) < 2e-4


def test_the_stop_is_relative():
    operator, rhs = system()
    config = PCGConfig(tolerance=1e-5, max_iterations=500)
    preconditioner = make_preconditioner("jacobi", operator)
    small, large = (pcg(operator, factor * rhs, config, preconditioner) for factor in (1e-20, 65536.0))
    assert small.iterations == large.iterations
    torch.testing.assert_close(small.solution / 1e-20, large.solution / 65536.0, rtol=1e-9, atol=1e-12)


def test_zero_right_hand_side():
    operator, rhs = system()
    result = pcg(operator, torch.zeros_like(rhs), PCGConfig())
    assert result.status is PCGStatus.ZERO_RHS
    assert result.iterations == 0
    assert not result.solution.any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_right_hand_side_is_a_breakdown(value):
    operator, rhs = system()
    rhs[3] = value
    result = pcg(operator, rhs, PCGConfig())
    assert result.status is PCGStatus.BREAKDOWN
    assert not result.solution.any()


def test_indefinite_operator_is_a_breakdown_with_the_last_sound_iterate():
    diagonal = torch.tensor([2.0, 1.0, -1.0, 3.0], dtype=torch.float64)
    rhs = torch.tensor([1.0, 1.0, 1e-3, 1.0], dtype=torch.float64)
    result = pcg(lambda v: diagonal * v, rhs, PCGConfig(tolerance=1e-12))
    assert result.status is PCGStatus.BREAKDOWN
    assert torch.isfinite(result.solution).all()
    assert 0 < result.iterations < 5
    residual = (rhs - diagonal * result.solution).norm() / rhs.norm()
    assert result.residual == pytest.approx(float(residual), rel=1e-9)


def test_operator_that_turns_non_finite_is_a_breakdown_with_the_last_sound_iterate():
    operator, rhs = system()
    calls = 0

    def failing(v):
        nonlocal calls
        calls += 1
        return operator(v) if calls < 4 else torch.full_like(v, math.nan)

    result = pcg(failing, rhs, PCGConfig(tolerance=1e-12))
    assert result.status is PCGStatus.BREAKDOWN
    assert result.iterations == 3
    assert torch.equal(result.solution, pcg(operator, rhs, PCGConfig(tolerance=1e-12, max_iterations=3)).solution)


def test_preconditioner_that_fails_is_a_breakdown_with_the_last_sound_iterate():
    operator, rhs = system()

    class Failing(Identity):
        calls = 0

        def solve(self, r, z):
            self.calls += 1
            product = super().solve(r, z)
            return product if self.calls < 5 else -product

    result = pcg(operator, rhs, PCGConfig(tolerance=1e-12), Failing())
    assert result.status is PCGStatus.BREAKDOWN
    assert result.iterations == 3
    expected = pcg(operator, rhs, PCGConfig(tolerance=1e-12, max_iterations=3)).solution
    torch.testing.assert_close(result.solution, expected, rtol=1e-12, atol=1e-13)


def test_warm_start_is_taken_only_when_it_is_better_than_zero():
    operator, rhs = system()
    config = PCGConfig(tolerance=1e-8, max_iterations=1000)
    preconditioner = make_preconditioner("block_jacobi", operator)
    cold = pcg(operator, rhs, config, preconditioner)
    assert pcg(operator, rhs, config, preconditioner, cold.solution).iterations == 0
    near = cold.solution * (1 + 1e-3 * torch.sin(torch.arange(len(rhs))))
    warm = pcg(operator, rhs, config, preconditioner, near)
    assert 0 < warm.iterations < cold.iterations
    assert warm.residual_history[0] < 1.0
    bad = pcg(operator, rhs, config, preconditioner, -100.0 * cold.solution)
    assert bad.residual_history[0] == 1.0
    assert torch.equal(bad.solution, cold.solution)


def test_results_do_not_depend_on_the_number_of_threads():

    before = torch.get_num_threads()
    diagonal, vector = torch.rand(50_000) + 0.1, torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(pcg(lambda v: diagonal * v, vector, PCGConfig(tolerance=1e-5)))
    finally:
        torch.set_num_threads(before)
    assert results[0].residual_history == results[1].residual_history
    assert torch.equal(results[0].solution, results[1].solution)


def test_bad_settings_are_refused():
    for settings in ({"preconditioner": "ilu"}, {"tolerance": 0.0}, {"max_iterations": 0}, {"refresh_every": -1}):
        with pytest.raises(ValueError, match="PCGConfig"):
            PCGConfig(**settings)
