# SPDX-License-Identifier: Apache-2.0
"""The diagonal of JᵀWJ and its per-Gaussian blocks, against the oracle and against products with unit vectors."""

import pytest
import torch

from ns_diff3r.rasterization import GaussianBlocks
from tests.rasterization.native_cases import EVERYTHING, PRESETS_AND_MODES, assert_same_groups, make_pair, pair
from tests.scenes import SCENE_KINDS, make_scene

TOLERANCE = 1e-10
SMALL = (19, 27)


def assert_same_blocks(value, expected, tolerance):
    """Each block relative to the norm of its own expectation."""
    for name in ("geometry", "sh"):
        a, b = getattr(value, name), getattr(expected, name)
        assert a.shape == b.shape
        error = (a - b).flatten(-2).norm(dim=-1)
        scale = b.flatten(-2).norm(dim=-1)
        assert (error <= tolerance * scale).all(), f"{name}: {(error / scale).nan_to_num().max():.1e}"
        assert torch.equal(a, a.mT), f"{name} is not symmetric"


@pytest.mark.parametrize(
    ("kind", "semantics"), [(kind, PRESETS_AND_MODES[i % 6]) for i, kind in enumerate(SCENE_KINDS)]
)
def test_against_the_oracle(kind, semantics):
    case = pair(kind, *semantics, sh_degree=1, num_gaussians=6, size=SMALL)
    assert_same_groups(case.native.diagonal(case.weights), case.oracle.diagonal(case.weights), TOLERANCE)
    assert_same_blocks(case.native.blocks(case.weights), case.oracle.blocks(case.weights), TOLERANCE)


@pytest.mark.parametrize("degree", [0, 2, 4])
def test_sh_degrees_against_the_oracle(degree):
    case = pair("dark", sh_degree=degree, num_gaussians=2, size=SMALL)
    assert_same_groups(case.native.diagonal(case.weights), case.oracle.diagonal(case.weights), TOLERANCE)
    assert_same_blocks(case.native.blocks(case.weights), case.oracle.blocks(case.weights), TOLERANCE)


@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_entries_of_the_product(kind, preset, antialiased):
    """eᵢᵀ A eⱼ by the fused product with every unit vector: the preconditioner belongs to the operator it serves."""
    case = pair(kind, preset, antialiased)
    check_entries(case.native, case.weights, TOLERANCE)


def test_entries_of_the_product_in_single_precision():
    gaussians, cameras = make_scene("generic", 3, 17, 2, SMALL, torch.float32)
    case = make_pair(gaussians, cameras)
    check_entries(case.native, case.weights.float(), 1e-5)


def check_entries(linearization, weights, tolerance):
    gaussians = linearization.gaussians
    count = gaussians.num_parameters
    unit = torch.eye(count, dtype=gaussians.dtype)
    A = torch.stack([linearization.gauss_newton(gaussians.unflatten(e), weights).flatten() for e in unit])
    assert_same_groups(linearization.diagonal(weights), gaussians.unflatten(A.diagonal().clone()), tolerance)

    place = gaussians.unflatten(torch.arange(count, dtype=gaussians.dtype))  # of every parameter in the flat vector
    geometry = torch.cat([place.means, place.quats, place.scales, place.opacities[:, None]], dim=-1).long()
    sh = torch.cat([place.sh0, place.shN], dim=1).mT.long()  # [N, 3, K]
    expected = GaussianBlocks(*(A[index[..., :, None], index[..., None, :]] for index in (geometry, sh)))
    assert_same_blocks(linearization.blocks(weights), expected, tolerance)
