# SPDX-License-Identifier: Apache-2.0
"""Spherical harmonics: against gsplat, their orthonormality, and rotation of coefficients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ns_diff3r.splats import spherical_harmonics
from ns_diff3r.splats.rotations import quats_to_rotations
from ns_diff3r.splats.spherical_harmonics import (
    SH_C0,
    rgb_to_sh0,
    sh0_to_rgb,
    spherical_harmonics_basis,
    spherical_harmonics_rotation,
)

DEGREES = range(5)
unit_interval = st.floats(-1, 1)
quaternions = st.lists(unit_interval, min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.01)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("degree", DEGREES)
def test_equal_to_gsplat(degree):
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")
    directions, coefficients = 3 * normal(100, 3), normal(100, 25, 3, seed=1)
    expected = gsplat._spherical_harmonics(degree, directions, coefficients)
    torch.testing.assert_close(spherical_harmonics(degree, directions, coefficients), expected, rtol=0, atol=1e-13)


def test_low_degrees_written_out():
    x, y, z = (0.6 * 0.8, -0.6 * 0.6, 0.8)
    values = spherical_harmonics_basis(2, torch.tensor([x, y, z], dtype=torch.float64))
    c1, c2 = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    expected = [
        SH_C0, -c1 * y, c1 * z, -c1 * x,
        c2 * x * y, -c2 * y * z, c2 / math.sqrt(12) * (3 * z * z - 1), -c2 * x * z, c2 / 2 * (x * x - y * y),
    ]  # fmt: skip
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_orthonormal_on_the_sphere():
    nodes, weights = np.polynomial.legendre.leggauss(10)  # exact for the products of two harmonics of degree 4
    angles = torch.arange(20, dtype=torch.float64) * (2 * math.pi / 20)
    z = torch.from_numpy(nodes)[:, None].expand(10, 20)
    radius = (1 - z * z).sqrt()
    directions = torch.stack([radius * angles.cos(), radius * angles.sin(), z], dim=-1).reshape(-1, 3)
    weight = torch.from_numpy(weights).repeat_interleave(20) * (2 * math.pi / 20)
    basis = spherical_harmonics_basis(4, directions)
    torch.testing.assert_close(basis.T @ (basis * weight[:, None]), torch.eye(25, dtype=torch.float64))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(quat=quaternions, degree=st.integers(0, 4), seed=st.integers(0, 100))
def test_rotated_coefficients_seen_from_rotated_directions(quat, degree, seed):
    rotation = quats_to_rotations(torch.tensor(quat, dtype=torch.float64))
    matrix = spherical_harmonics_rotation(degree, rotation)
    directions, coefficients = normal(20, 3, seed=seed), normal((degree + 1) ** 2, 3, seed=seed + 1)
    before = spherical_harmonics(degree, directions, coefficients.expand(20, -1, 3))
    after = spherical_harmonics(degree, directions @ rotation.T, (matrix @ coefficients).expand(20, -1, 3))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-13)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=1e-13)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(first=quaternions, second=quaternions)
def test_rotations_of_coefficients_compose(first, second):
    a, b = (quats_to_rotations(torch.tensor(q, dtype=torch.float64)) for q in (first, second))
    product = spherical_harmonics_rotation(4, a) @ spherical_harmonics_rotation(4, b)
    torch.testing.assert_close(spherical_harmonics_rotation(4, a @ b), product, rtol=0, atol=1e-13)


def test_rotation_keeps_the_degrees_apart():
    matrix = spherical_harmonics_rotation(4, quats_to_rotations(normal(4)))
    degree_of = torch.tensor([degree for degree in DEGREES for _ in range(2 * degree + 1)])
    assert matrix[degree_of[:, None] != degree_of].eq(0).all()
    assert matrix[0, 0].item() == pytest.approx(1.0, abs=1e-15)


def test_derivatives():
    directions, coefficients = normal(5, 3).requires_grad_(), normal(5, 25, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: spherical_harmonics(4, d, c), (directions, coefficients))


def test_colours():
    colors = torch.rand(5, 3, dtype=torch.float64)
    torch.testing.assert_close(sh0_to_rgb(rgb_to_sh0(colors)), colors)
    torch.testing.assert_close(0.5 + spherical_harmonics(0, normal(5, 3), rgb_to_sh0(colors)[:, None]), colors)


def test_errors():
    with pytest.raises(ValueError, match="0 to 4, got 5"):
        spherical_harmonics_basis(5, torch.ones(3))
    with pytest.raises(ValueError, match="degree 2 needs 9 coefficients, got 4"):
        spherical_harmonics(2, torch.ones(3), torch.zeros(4, 3))
