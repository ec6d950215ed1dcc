# SPDX-License-Identifier: Apache-2.0
"""The flat layout: order, sharing of storage, and derivatives through it."""

import pytest
import torch
from torch.autograd import forward_ad

from ns_diff3r.splats import Gaussians
from tests.splats.random_gaussians import assert_same, random_gaussians


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("num", [0, 1, 7])
def test_order_and_inverse(num, degree):
    gaussians = random_gaussians(num, degree)
    flat = gaussians.flatten()
    assert flat.shape == (gaussians.num_parameters,)
    slices = gaussians.group_slices()
    assert list(slices) == ["means", "quats", "scales", "opacities", "sh0", "shN"]
    for name, leaf in gaussians.items():
        assert torch.equal(flat[slices[name]], leaf.reshape(-1))
    assert_same(gaussians.unflatten(flat), gaussians)
    assert_same(Gaussians.from_flat(flat, num, degree), gaussians)


@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("offset", [0, 5])
def test_no_copy_where_leaves_lie_in_order(degree, offset):
    storage = torch.randn(offset + 11 * (11 + 3 * (degree + 1) ** 2))
    flat = storage[offset:]
    gaussians = Gaussians.from_flat(flat, 11, degree)
    again = gaussians.flatten()
    assert again.data_ptr() == flat.data_ptr()
    assert torch.equal(again, flat)
    again.add_(1.0)
    assert torch.equal(gaussians.means.reshape(-1), storage[offset : offset + 33])
    assert torch.equal(gaussians.unflatten(again).flatten(), flat)


def test_zeros_like_is_one_vector():
    zeros = random_gaussians().zeros_like()
    zeros.flatten().fill_(3.0)
    assert all(leaf.eq(3).all() for leaf in zeros.leaves())


def test_copy_where_storage_does_not_fit():
    gaussians = random_gaussians(6, 1)
    in_order = gaussians.unflatten(gaussians.flatten().clone())
    means, quats, scales, *others = in_order.leaves()
    cases = {
        "separate storages": gaussians,
        "not contiguous": Gaussians(means.T.contiguous().T, quats, scales, *others),
        "wrong order": Gaussians(scales, quats, means, *others),
        "part of a vector": in_order[1:4],
    }
    for name, case in cases.items():
        flat = case.flatten()
        assert torch.equal(flat, torch.cat([leaf.reshape(-1) for leaf in case.leaves()])), name
        before = case.means.clone()
        flat.zero_()
        assert torch.equal(case.means, before), name


def test_gradients_of_flatten():
    in_order = random_gaussians().zeros_like()
    leaves = in_order.requires_grad_()
    weights = torch.arange(float(in_order.num_parameters), dtype=torch.float64)
    (leaves.flatten() * weights).sum().backward()
    gradient = torch.cat([leaf.grad.reshape(-1) for leaf in leaves.leaves()])  # type: ignore[union-attr]
    assert torch.equal(gradient, weights)


def test_gradients_of_unflatten_and_back():
    gaussians = random_gaussians()
    flat = gaussians.flatten().requires_grad_()
    parts = gaussians.unflatten(flat)
    (2 * parts.flatten()).sum().backward()
    assert flat.grad is not None
    assert flat.grad.eq(2).all()
    # A view by storage would have been a constant here, so it must not be taken even though the leaves lie in order.
    assert parts.flatten().requires_grad


def test_no_copy_without_gradient_recording():
    gaussians = random_gaussians().zeros_like().requires_grad_()
    with torch.no_grad():
        flat = gaussians.flatten()
    assert not flat.requires_grad
    assert flat.data_ptr() == gaussians.means.data_ptr()


def test_forward_mode_goes_through():
    primal, tangent = random_gaussians(seed=0).flatten(), random_gaussians(seed=1).flatten()

    def through(flat: torch.Tensor) -> torch.Tensor:
        parts = Gaussians.from_flat(flat, 7, 2)
        return parts.map(torch.sin).flatten() + parts.flatten()

    expected = (1 + primal.cos()) * tangent
    by_func = torch.func.jvp(through, (primal,), (tangent,))[1]
    torch.testing.assert_close(by_func, expected)
    with forward_ad.dual_level():
        by_dual = forward_ad.unpack_dual(through(forward_ad.make_dual(primal, tangent))).tangent
    torch.testing.assert_close(by_dual, expected)
    value, pull, *_ = torch.func.vjp(through, primal)
    torch.testing.assert_close(pull(torch.ones_like(value))[0], 1 + primal.cos())


def test_forward_mode_of_leaves_in_order_whose_tangents_are_not():
    gaussians = random_gaussians(seed=0)
    in_order, tangents = gaussians.unflatten(gaussians.flatten()), random_gaussians(seed=1)

    def flatten(*leaves: torch.Tensor) -> torch.Tensor:
        return Gaussians(*leaves).flatten()

    expected = tangents.flatten()
    assert torch.equal(torch.func.jvp(flatten, in_order.leaves(), tangents.leaves())[1], expected)
    with forward_ad.dual_level():
        flat = in_order.combine(forward_ad.make_dual, tangents).flatten()
        tangent = forward_ad.unpack_dual(flat).tangent
    assert tangent is not None
    assert torch.equal(tangent, expected)
    rows = torch.vmap(flatten, in_dims=(0, *[None] * 5))(torch.stack([in_order.means] * 2), *in_order.leaves()[1:])
    assert torch.equal(rows[1], in_order.flatten())


def test_wrong_length():
    with pytest.raises(ValueError, match=r"2 Gaussians of SH degree 1 need a vector of 46 numbers, got shape \[45\]"):
        Gaussians.from_flat(torch.zeros(45), 2, 1)
