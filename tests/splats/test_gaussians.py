# SPDX-License-Identifier: Apache-2.0
"""The container: what it accepts, what it says when it does not, and leafwise operations."""

import pytest
import torch

from ns_diff3r.splats import GROUPS, Gaussians
from tests.splats.random_gaussians import assert_same, random_gaussians


@pytest.mark.parametrize("degree", range(5))
def test_properties(degree):
    gaussians = random_gaussians(5, degree, torch.float32)
    assert gaussians.num_gaussians == 5
    assert gaussians.sh_degree == degree
    assert gaussians.dtype == torch.float32
    assert gaussians.device.type == "cpu"
    assert gaussians.num_parameters == 5 * (11 + 3 * (degree + 1) ** 2)
    assert not gaussians.requires_grad
    assert tuple(name for name, _ in gaussians.items()) == GROUPS
    assert "num_gaussians=5" in repr(gaussians)


def replaced(**leaves) -> Gaussians:
    return Gaussians(**(dict(random_gaussians(dtype=torch.float32).items()) | leaves))


@pytest.mark.parametrize(
    ("leaves", "error", "message"),
    [
        ({"means": torch.zeros(7, 2)}, ValueError, r"Gaussians.means must have shape \[N, 3\], got \[7, 2\]"),
        ({"quats": torch.zeros(7, 3)}, ValueError, r"Gaussians.quats must have shape \[7, 4\], got \[7, 3\]"),
        ({"scales": torch.zeros(6, 3)}, ValueError, r"Gaussians.scales must have shape \[7, 3\]"),
        ({"opacities": torch.zeros(7, 1)}, ValueError, r"Gaussians.opacities must have shape \[7\], got \[7, 1\]"),
        ({"sh0": torch.zeros(7, 3)}, ValueError, r"Gaussians.sh0 must have shape \[7, 1, 3\]"),
        ({"shN": torch.zeros(7, 5, 3)}, ValueError, r"0, 3, 8, 15 or 24 coefficients .* got 5"),
        ({"shN": torch.zeros(7, 35, 3)}, ValueError, "got 35"),
        ({"means": torch.zeros(7, 3, dtype=torch.float16)}, TypeError, "means must be float32 or float64"),
        ({"quats": torch.zeros(7, 4, dtype=torch.int64)}, TypeError, "quats must be float32 or float64"),
        ({"sh0": torch.zeros(7, 1, 3, dtype=torch.float64)}, TypeError, "one dtype, but means is .*32 and sh0 is .*64"),
        ({"scales": [[0.0] * 3] * 7}, TypeError, "scales must be a torch.Tensor, got list"),
        ({"quats": torch.zeros(7, 4, device="meta")}, ValueError, "one device, but means is on cpu and quats on meta"),
    ],
)
def test_construction_names_what_is_wrong(leaves, error, message):
    with pytest.raises(error, match=message):
        replaced(**leaves)


def test_values_are_not_checked_at_construction_but_on_request():
    scales = torch.zeros(7, 3)
    scales[2, 1] = torch.nan
    scales[3] = torch.inf
    gaussians = replaced(scales=scales)
    with pytest.raises(ValueError, match=r"Gaussians.scales has 4 non-finite values of 21"):
        gaussians.check_finite()
    whole = random_gaussians()
    assert whole.check_finite() is whole


def test_activations():
    gaussians = random_gaussians()
    torch.testing.assert_close(gaussians.scales_activated.log(), gaussians.scales)
    torch.testing.assert_close(gaussians.opacities_activated.logit(), gaussians.opacities)
    assert gaussians.covariances().shape == (7, 3, 3)


def test_leafwise_operations():
    a, b = random_gaussians(seed=0), random_gaussians(seed=1)
    assert_same(a.combine(torch.add, b), Gaussians(*(x + y for x, y in zip(a.leaves(), b.leaves(), strict=True))))
    assert_same(a.combine(lambda x, y, z: x * y - z, b, a), a.combine(torch.mul, b).combine(torch.sub, a))
    assert_same(a.map(torch.zeros_like), a.zeros_like())
    assert a.to(dtype=torch.float32).dtype == torch.float32
    assert a.to(dtype=torch.float64).means is a.means
    copy = a.clone()
    copy.means.zero_()
    assert a.means.abs().sum() > 0


def test_requires_grad_and_detach():
    gaussians = random_gaussians()
    assert gaussians.requires_grad_() is gaussians
    assert all(leaf.requires_grad for leaf in gaussians.leaves())
    detached = gaussians.detach()
    assert not detached.requires_grad
    assert detached.means.data_ptr() == gaussians.means.data_ptr()
    gaussians.requires_grad_(False)
    assert not gaussians.requires_grad


def test_indexing():
    gaussians = random_gaussians(6)
    mask = torch.tensor([True, False, True, False, False, True])
    picked = torch.tensor([0, 2, 5])
    assert_same(gaussians[mask], gaussians[picked])
    assert_same(gaussians[1:3], gaussians[torch.tensor([1, 2])])
    assert gaussians[torch.zeros(6, dtype=torch.bool)].num_gaussians == 0
    for wrong in (0, torch.tensor(1), torch.rand(6), [0, 1]):
        with pytest.raises(TypeError, match="mask"):
            gaussians[wrong]  # type: ignore[index]


def test_concatenate():
    parts = [random_gaussians(n, 1, seed=n) for n in (2, 0, 3)]
    whole = Gaussians.concatenate(parts)
    assert_same(whole[:2], parts[0])
    assert_same(whole[2:], parts[2])
    with pytest.raises(ValueError, match=r"one SH degree, got degrees \[1, 2\]"):
        Gaussians.concatenate([parts[0], random_gaussians(2, 2)])
    with pytest.raises(ValueError, match="one SH degree"):
        Gaussians.concatenate([])


def test_sh_degree_can_be_raised_and_cut():
    gaussians = random_gaussians(4, 1)
    raised = gaussians.with_sh_degree(3)
    assert raised.sh_degree == 3
    assert raised.shN[:, 3:].eq(0).all()
    assert_same(raised.with_sh_degree(1), gaussians)
    assert gaussians.with_sh_degree(0).shN.shape == (4, 0, 3)
    with pytest.raises(ValueError, match="0 to 4, got 5"):
        gaussians.with_sh_degree(5)


def test_broadcast_from_the_left():
    gaussians = random_gaussians(5, 1)
    per_gaussian = torch.arange(5.0, dtype=torch.float64)
    value = gaussians.broadcast(
        means=per_gaussian[:, None], quats=2.0, scales=torch.tensor([[1.0, 2.0, 3.0]]),
        opacities=per_gaussian[:, None], sh0=per_gaussian, shN=per_gaussian[:, None],
    )  # fmt: skip
    assert value.means.tolist() == [[i, i, i] for i in range(5)]
    assert value.quats.eq(2).all()
    assert value.scales.tolist() == [[1, 2, 3]] * 5
    assert value.opacities.tolist() == [0, 1, 2, 3, 4]
    assert value.sh0[3].eq(3).all()
    assert value.shN[4].eq(4).all()
    assert gaussians.broadcast(means=1.0).quats.eq(0).all()
    with pytest.raises(ValueError, match=r"Gaussians.means: \[4\] does not broadcast to \[5, 3\]"):
        gaussians.broadcast(means=torch.zeros(4))
    with pytest.raises(ValueError, match=r"unknown group \['colours'\]"):
        gaussians.broadcast(colours=1.0)


def test_broadcast_is_differentiable():
    gaussians = random_gaussians(5, 1)
    weights = torch.ones(5, 1, dtype=torch.float64, requires_grad=True)
    gaussians.broadcast(means=weights, shN=weights).flatten().sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[3.0 + 9.0]] * 5
