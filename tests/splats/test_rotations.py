# SPDX-License-Identifier: Apache-2.0
"""Quaternions and rotation matrices."""

import itertools

import pytest
import torch

from ns_diff3r.splats.rotations import multiply_matrices, multiply_quats, quats_to_rotations, rotations_to_quats

RANDOM = torch.Generator().manual_seed(0)
QUATS = torch.randn(50, 4, generator=RANDOM, dtype=torch.float64)


def test_matrices_are_proper_rotations_of_any_length():
    rotations = quats_to_rotations(QUATS)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(quats_to_rotations(1e-3 * QUATS), rotations)


def test_convention_is_wxyz():
    half = 0.5**0.5
    about_z = quats_to_rotations(torch.tensor([half, 0.0, 0.0, half]))
    torch.testing.assert_close(about_z @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def test_back_to_quaternions_at_every_branch():
    # Half turns about every axis and diagonal are the cases in which a naive formula divides by zero.
    signs = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=4)), dtype=torch.float64)
    quats = torch.cat([QUATS, signs[signs.abs().sum(-1) > 0]])
    quats = quats / quats.norm(dim=-1, keepdim=True)
    back = rotations_to_quats(quats_to_rotations(quats))
    agreement = (back * quats).sum(-1).abs()
    torch.testing.assert_close(agreement, torch.ones_like(agreement), atol=1e-14, rtol=0)
    torch.testing.assert_close(back.amax(-1), back.abs().amax(-1))  # the largest component is positive


def test_product_composes_rotations():
    a, b = QUATS[:25], QUATS[25:]
    composed = quats_to_rotations(multiply_quats(a, b))
    torch.testing.assert_close(composed, quats_to_rotations(a) @ quats_to_rotations(b))
    torch.testing.assert_close(multiply_quats(a, b).norm(dim=-1), a.norm(dim=-1) * b.norm(dim=-1))


def test_derivatives():
    quats = QUATS[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(quats_to_rotations, (quats,))
    assert torch.autograd.gradcheck(lambda q: rotations_to_quats(quats_to_rotations(q)), (quats,))
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])).requires_grad_()
    rotations_to_quats(half_turns).sum().backward()
    assert half_turns.grad is not None
    assert half_turns.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round(dtype):
    a, b = quats_to_rotations(QUATS[:9].float()), quats_to_rotations(QUATS[9:18].float())
    with torch.autocast("cpu", dtype=dtype):
        assert (a @ b).dtype == dtype  # what the function avoids
        product = multiply_matrices(a, b)
    torch.testing.assert_close(product, a @ b)
