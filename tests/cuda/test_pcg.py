# SPDX-License-Identifier: Apache-2.0
"""Conjugate gradients wholly on the device against those of the CPU, iteration by iteration."""

import pytest
import torch

from ns_diff3r import linearize
from ns_diff3r.solver import cuda_pcg, preconditioners
from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.pcg import PCGConfig, PCGStatus, pcg
from ns_diff3r.solver.preconditioners import make_preconditioner
from tests.cuda.cuda_cases import PLACES, cuda_linearization, require
from tests.rasterization.native_cases import BACKGROUNDS
from tests.scenes import make_scene, random_images

places = pytest.mark.parametrize("place", PLACES)


@pytest.fixture(autouse=True)
def _blocks_as_on_a_device(monkeypatch):
    """The CUDA backend has its small blocks as whole matrices; on CPU tensors the packed ones would be made."""
    monkeypatch.setattr(preconditioners, "is_native", lambda tensor: False)


def operators(place, ssim=0.2, frozen=("quats",), strength=1e-3):
    """A over the CPU backend in float64, and over the CUDA backend at `place`."""
    gaussians, cameras = make_scene("generic", 1, 14, 2, (18, 21))
    image = random_images(cameras, 1).abs().clamp_max(1.0)
    loss = ImageLoss(ssim_weight=ssim)
    pair = []
    for lin, dtype in (
        (linearize(gaussians, cameras, background=BACKGROUNDS, backend="native"), torch.float64),
        (
            cuda_linearization(
                gaussians.to(dtype=torch.float64 if place == "cpu" else torch.float32),
                cameras,
                place,
                background=BACKGROUNDS,
            ),
            torch.float64 if place == "cpu" else torch.float32,
        ),
    ):
        curvature = loss.linearize(lin.rgb, image.to(lin.rgb)).curvature
        diagonal = torch.full((gaussians.num_parameters,), strength, dtype=dtype, device=lin.rgb.device)
        pair.append(NormalOperator(lin, curvature, image.numel(), diagonal, frozen))
    return pair


def right_hand_side(operator):
    u = random_images(operator.linearization.cameras, 7).to(operator.linearization.rgb)
    return operator.mask_(operator.linearization.vjp(u).flatten())


@places
@pytest.mark.parametrize("ssim", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["none", "jacobi", "block_jacobi"])
def test_against_the_cpu(kind, ssim, place):
    require(place)
    here, there = operators(place, ssim)
    b = right_hand_side(here)
    steps = 11
    if place == "cuda":  # without a preconditioner rounding grows a hundredfold an iteration from the fifth on
        steps = 4 if kind == "none" else 16
    config = PCGConfig(preconditioner=kind, max_iterations=steps, tolerance=1e-12, refresh_every=4)
    expected = pcg(here, b, config, make_preconditioner(kind, here))
    preconditioner = make_preconditioner(kind, there)
    assert cuda_pcg.applies(there, preconditioner, None)
    found = pcg(there, b.to(there.linearization.rgb), config, preconditioner)
    assert found.status is expected.status
    assert found.iterations == expected.iterations
    if place == "cpu":
        assert found.residual_history == pytest.approx(expected.residual_history, rel=1e-9)
    difference = found.solution.double().cpu() - expected.solution
    error = float(difference @ here(difference)) / float(expected.solution @ here(expected.solution))
    assert error**0.5 <= (1e-7 if place == "cpu" else 1e-3)
    assert not found.solution[there.slices["quats"]].any()


@places
def test_where_a_solve_ends(place):
    """Convergence at the same iteration however often the host looks; no step behind it; the zero right-hand side."""
    require(place)
    _, operator = operators(place)
    b = right_hand_side(operator)
    preconditioner = make_preconditioner("jacobi", operator)
    long = pcg(operator, b, PCGConfig(tolerance=1e-2, max_iterations=100), preconditioner)
    assert long.status is PCGStatus.CONVERGED
    assert long.residual <= 1e-2 < long.residual_history[-2]
    short = pcg(operator, b, PCGConfig(tolerance=1e-2, max_iterations=long.iterations), preconditioner)
    assert torch.equal(short.solution, long.solution)
    assert short.residual_history == long.residual_history
    nothing = pcg(operator, torch.zeros_like(b), PCGConfig(), preconditioner)
    assert nothing.status is PCGStatus.ZERO_RHS
    assert not nothing.solution.any()


def test_a_step_that_is_undone():
    """M that turns out indefinite behind a step: back to the iterate before, once, however many iterations follow."""
    here, there = operators("cpu", ssim=0.0, frozen=())
    b = right_hand_side(here)
    inverse = 1.0 / here.diagonal()
    inverse[torch.randperm(b.numel(), generator=torch.Generator().manual_seed(3))[:25]] *= -1.0
    results = []
    for operator in (here, there):
        preconditioner = make_preconditioner("jacobi", operator)
        preconditioner.inverse = inverse
        results.append(pcg(operator, b, PCGConfig(preconditioner="jacobi", max_iterations=16), preconditioner))
    expected, found = results
    assert found.status is expected.status is PCGStatus.BREAKDOWN
    assert found.iterations == expected.iterations >= 1
    torch.testing.assert_close(found.solution, expected.solution, rtol=1e-8, atol=1e-12)


@places
def test_breakdown(place):
    """A direction of negative curvature, and a right-hand side that is no number."""
    require(place)
    _, operator = operators(place, strength=-10.0, frozen=())
    b = right_hand_side(operator)
    result = pcg(operator, b, PCGConfig(preconditioner="none"))
    assert result.status is PCGStatus.BREAKDOWN
    assert not result.solution.any()
    b[3] = torch.nan
    result = pcg(operator, b, PCGConfig(preconditioner="none"))
    assert result.status is PCGStatus.BREAKDOWN
    assert result.residual != result.residual
