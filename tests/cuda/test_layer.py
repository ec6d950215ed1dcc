# SPDX-License-Identifier: Apache-2.0
"""The whole layer over the CUDA kernels: TTO, its loss, and the implicit gradient, against the CPU's."""

import pytest
import torch

from ns_diff3r import DifferentiableTTO, TTOConfig, Views, render
from ns_diff3r.solver import PCGConfig
from ns_diff3r.solver.backward import BackwardMode
from tests.cuda.cuda_cases import PLACES, dtypes_at, require
from tests.cuda.pretend_device import pretended
from tests.scenes import make_scene


@pytest.mark.parametrize("place", PLACES)
def test_autograd_to_everything(place, request):
    """Gaussians, cameras and background, through rgb, alpha and depth."""
    require(place)
    gaussians, cameras = make_scene("generic", 1, 10, 2, (14, 17))
    random = torch.Generator().manual_seed(0)
    cotangents = [torch.randn(2, 14, 17, c, generator=random, dtype=torch.float64) for c in (3, 1, 1)]

    def gradients(place, dtype):
        point = gaussians.to(dtype=dtype, device=place).detach().requires_grad_()
        views = cameras.to(dtype=dtype, device=place)
        views.viewmats.requires_grad_()
        background = torch.tensor([0.2, 0.5, 0.7], dtype=dtype, requires_grad=True)
        drawn = render(point, views, background=background)
        images = (drawn.rgb, drawn.alpha, drawn.depth)
        total = sum((image * u.to(image)).sum() for image, u in zip(images, cotangents, strict=True))
        inputs = (*point.leaves(), views.viewmats, background)
        return [gradient.double().cpu() for gradient in torch.autograd.grad(total, inputs)]

    expected = gradients("cpu", torch.float64)
    if place == "cpu":
        request.getfixturevalue("everything_by_cuda_kernels")
    dtype, tolerance = dtypes_at(place)
    for value, want in zip(gradients(place, dtype), expected, strict=True):
        assert float((value - want).norm()) <= 10 * tolerance * float(want.norm())


def run(place, dtype, config, preconditioner):
    gaussians, cameras = make_scene("generic", 1, 10, 2, (14, 17))
    gaussians, cameras = gaussians.to(dtype=dtype, device=place), cameras.to(dtype=dtype, device=place)
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 14, 17, 3, generator=random, dtype=torch.float64).to(place, dtype)
    outer = [torch.randn(leaf.shape, generator=random, dtype=torch.float64).to(leaf) for leaf in gaussians.leaves()]
    layer = DifferentiableTTO(
        TTOConfig(num_steps=4, pcg=PCGConfig(preconditioner=preconditioner, max_iterations=8), **config)
    )
    start = gaussians.requires_grad_()
    strength = torch.tensor(0.5, dtype=dtype, device=place, requires_grad=True)
    prior = gaussians.detach().map(lambda leaf: torch.ones_like(leaf) * strength)
    result, solution = layer(start, prior, Views(images, cameras))
    sum((x * u).sum() for x, u in zip(result.leaves(), outer, strict=True)).backward()
    gradients = torch.cat([leaf.grad.flatten() for leaf in start.leaves()])
    return result.detach().flatten(), torch.tensor(solution.loss_curve), gradients, strength.grad


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("preconditioner", ["jacobi", "block_jacobi"])
@pytest.mark.parametrize("config", [{}, {"optimizer": "sgd", "frozen_groups": ("quats",)}], ids=["adam", "sgd"])
def test_optimise_and_differentiate(config, preconditioner, place, request):
    require(place)
    expected = run("cpu", torch.float64, config, preconditioner)
    if place == "cpu":
        request.getfixturevalue("everything_by_cuda_kernels")
    value = run(place, torch.float64 if place == "cpu" else torch.float32, config, preconditioner)
    tolerance = 1e-7 if place == "cpu" else 2e-2
    for found, want in zip(value, expected, strict=True):
        want = want.double()
        assert float((found.double().cpu() - want).norm()) <= tolerance * float(want.norm())


@pytest.mark.parametrize("place", ["pretended", *PLACES[1:]])
@pytest.mark.parametrize("mode", ["implicit", "adjoint", "truncated", "first_order"])
def test_every_mode_on_a_device(mode, place):
    """Against the same mode on the CPU; where there is no device, on a pretended one."""
    config = {"backward_mode": BackwardMode(mode)}
    expected = run("cpu", torch.float32, config, "jacobi")
    if place == "pretended":
        with pretended():
            value = [x.cpu() for x in run("cuda", torch.float32, config, "jacobi")]
    else:
        require(place)
        value = run(place, torch.float32, config, "jacobi")
    for found, want in zip(value, expected, strict=True):
        assert float((found.cpu() - want).norm()) <= 2e-2 * float(want.norm())
