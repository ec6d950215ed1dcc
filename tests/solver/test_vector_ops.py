# SPDX-License-Identifier: Apache-2.0
"""Flat vector operations and the first-order steps against torch, for both precisions, and their reproducibility."""

from collections.abc import Iterator

import pytest
import torch

from ns_diff3r.solver import vector_ops
from ns_diff3r.solver.vector_ops import ParameterRange

SIZES = [0, 1, 15, 16, 8191, 8192, 20_011]


def vectors(count: int, size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_elementwise_operations(size, dtype):
    close = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-14, "atol": 1e-14}
    a, b, c, d = vectors(4, size, dtype)
    assert vector_ops.dot(a, b) == pytest.approx(float((a.double() * b.double()).sum()), rel=1e-12, abs=1e-10)

    y = b.clone()
    vector_ops.axpy(0.3, a, y)
    torch.testing.assert_close(y, b + 0.3 * a, **close)

    y = b.clone()
    vector_ops.xpby(a, -1.7, y)
    torch.testing.assert_close(y, a - 1.7 * b, **close)

    for diagonal in (c, None):
        y = b.clone()
        vector_ops.scale_add_diagonal(0.25, diagonal, a, y)
        torch.testing.assert_close(y, 0.25 * b + (0 if diagonal is None else diagonal * a), **close)

    x, r = a.clone(), b.clone()
    vector_ops.cg_update(0.7, c, d, x, r)
    torch.testing.assert_close(x, a + 0.7 * c, **close)
    torch.testing.assert_close(r, b - 0.7 * d, **close)

    torch.testing.assert_close(vector_ops.multiply(a, b), a * b, **close)
    y = b.clone()
    assert vector_ops.multiply(y, c, out=y) is y
    torch.testing.assert_close(y, b * c, **close)

    z = torch.empty_like(a)
    product = vector_ops.diagonal_solve(a, b, z)
    torch.testing.assert_close(z, a * b, **close)
    assert product == pytest.approx(float((b.double() * z.double()).sum()), rel=1e-12, abs=1e-10)


def test_dot_is_summed_in_double():
    a = torch.ones(100_003, dtype=torch.float32)
    a[0] = 1e8
    assert vector_ops.dot(a, torch.ones_like(a)) == 1e8 + 100_002


def test_mismatched_vectors_are_refused():
    a, b = vectors(2, 10)
    with pytest.raises(ValueError, match="mixed"):
        vector_ops.dot(a, b.float())
    with pytest.raises(ValueError, match="one size"):
        vector_ops.dot(a, b[:5])
    with pytest.raises(ValueError, match="contiguous"):
        vector_ops.dot(a[:5], b[::2])
    with pytest.raises(TypeError, match="float32 and float64"):
        vector_ops.dot(a.half(), b.half())


RANGES = [
    ParameterRange(0, 9000, 1e-2, False),
    ParameterRange(9000, 9000, 1.0, False),
    ParameterRange(9000, 9100, 0.5, True),
    ParameterRange(9100, 20_000, 3e-3, False),
]


@pytest.mark.parametrize("implementation", ["native", "torch"])
@pytest.mark.parametrize("with_prior", [True, False])
def test_adam_equals_torch_adam_on_the_total_loss(with_prior, implementation, monkeypatch):
    if implementation == "torch":
        monkeypatch.setattr(vector_ops, "is_native", lambda tensor: False)
    theta0, gradients = vectors(1, 20_000)[0], vectors(5, 20_000, seed=1)
    strength = vectors(1, 20_000, seed=2)[0].abs() if with_prior else None
    anchor = theta0 + 0.1 * vectors(1, 20_000, seed=3)[0] if with_prior else None
    parameters = [torch.nn.Parameter(theta0[r.begin : r.end].clone()) for r in RANGES]
    groups = [{"params": [p], "lr": r.learning_rate} for p, r in zip(parameters, RANGES, strict=True) if not r.frozen]
    reference = torch.optim.Adam(groups, betas=(0.8, 0.95), eps=1e-12)
    theta, moments = theta0.clone(), (torch.zeros(20_000).double(), torch.zeros(20_000).double())
    for step, image_gradient in enumerate(gradients, start=1):
        total, prior = image_gradient.clone(), torch.zeros_like(theta)
        if strength is not None and anchor is not None:
            total += strength * (theta - anchor)
            prior = 0.5 * strength * (theta - anchor) ** 2
        for parameter, r in zip(parameters, RANGES, strict=True):
            parameter.grad = total[r.begin : r.end].clone()
        reference.step()
        out, gradient = torch.empty_like(theta), image_gradient.clone()
        statistics = vector_ops.adam_step(
            RANGES, theta, anchor, strength, gradient, (0.8, 0.95), 1e-12, step, moments, out
        )
        theta = out
        for parameter, r, part in zip(parameters, RANGES, statistics, strict=True):
            own = slice(r.begin, r.end)
            torch.testing.assert_close(theta[own], parameter.detach(), rtol=1e-12, atol=1e-14)
            if r.frozen:
                assert part == (0.0, 0.0)
                assert torch.equal(theta[own], theta0[own])
                assert moments[0][own].abs().max() == 0
            else:
                torch.testing.assert_close(gradient[own], total[own], rtol=1e-12, atol=1e-13)
                assert part.prior == pytest.approx(float(prior[own].sum()), rel=1e-12)
                assert part.squared_gradient == pytest.approx(float(total[own].square().sum()), rel=1e-12)


@pytest.mark.parametrize("implementation", ["native", "torch"])
def test_sgd_and_prior_gradient(implementation, monkeypatch):
    if implementation == "torch":
        monkeypatch.setattr(vector_ops, "is_native", lambda tensor: False)
    theta, anchor, gradient = vectors(3, 20_000)
    strength = vectors(1, 20_000, seed=2)[0].abs()
    total = gradient + strength * (theta - anchor)
    expected = theta.clone()
    for r in RANGES:
        own = slice(r.begin, r.end)
        if not r.frozen:
            expected[own] -= r.learning_rate * total[own]
    alone, stepped, out = gradient.clone(), gradient.clone(), torch.empty_like(theta)
    statistics = vector_ops.prior_gradient(RANGES, theta, anchor, strength, alone)
    assert vector_ops.sgd_step(RANGES, theta, anchor, strength, stepped, out) == statistics
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-14)
    assert torch.equal(alone, stepped)
    assert torch.equal(alone[9000:9100], gradient[9000:9100])  # frozen
    vector_ops.sgd_step(RANGES, theta, anchor, strength, gradient, theta)  # in place
    assert torch.equal(theta, out)


def test_a_parameter_that_nothing_pulls_does_not_move():
    theta = vectors(1, 100)[0].float()
    zeros = torch.zeros(100)
    out, moments = torch.empty(100), (torch.zeros(100), torch.zeros(100))
    ranges = [ParameterRange(0, 100, 1.0, False)]
    vector_ops.adam_step(ranges, theta, theta, torch.ones(100), zeros, (0.9, 0.999), 1e-15, 1, moments, out)
    assert torch.equal(out, theta)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    size = 100_003
    ranges = [ParameterRange(0, 33_333, 1e-2, False), ParameterRange(33_333, size, 1e-3, False)]
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        theta, anchor, gradient, m, s = vectors(5, size, dtype)
        strength, out = s.abs(), torch.empty_like(theta)
        moments = (m, strength.clone())
        statistics = vector_ops.adam_step(
            ranges, theta, anchor, strength, gradient, (0.9, 0.999), 1e-15, 7, moments, out
        )
        z = torch.empty_like(theta)
        numbers = [vector_ops.dot(theta, out), vector_ops.diagonal_solve(theta, out, z), *sum(statistics, ())]
        results.append((numbers, [out, gradient, *moments, z]))
    for numbers, tensors in results[1:]:
        assert numbers == results[0][0]
        assert all(torch.equal(a, b) for a, b in zip(tensors, results[0][1], strict=True))


def test_adam_adjoint_is_the_derivative_of_adam_in_chunks_of_any_size(monkeypatch):
    """Against autograd of three steps; where nothing has ever come, the derivative is 0."""
    generator = torch.Generator().manual_seed(0)
    gradients = 1e-3 * torch.randn(3, 30, generator=generator, dtype=torch.float64)
    gradients[:, 7] = 0.0
    gradients[0, 8] = 0.0
    cotangent = torch.randn(30, generator=generator, dtype=torch.float64)
    ranges = [ParameterRange(0, 20, 0.1, False), ParameterRange(20, 24, 0.1, True), ParameterRange(24, 30, 0.3, False)]
    rates = torch.tensor([0.1] * 20 + [0.0] * 4 + [0.3] * 6, dtype=torch.float64)
    leaves = gradients.clone().requires_grad_()
    m, s = torch.zeros(30, dtype=torch.float64), torch.zeros(30, dtype=torch.float64)
    theta, moments = torch.zeros(30, dtype=torch.float64), []
    for k, g in enumerate(leaves, start=1):
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        moments.append((m.detach(), s.detach()))
        root = torch.where(s > 0, s, 1.0).sqrt() / (1 - 0.999**k) ** 0.5
        theta = theta - torch.where(s > 0, rates * m / (1 - 0.9**k) / (root + 1e-15), 0.0)
    expected = torch.autograd.grad((theta * cotangent).sum(), leaves)[0]
    for chunk in (1 << 16, 7):
        monkeypatch.setattr(vector_ops, "CACHED", chunk)
        adjoints = (torch.zeros(30, dtype=torch.float64), torch.zeros(30, dtype=torch.float64))
        for k in (3, 2, 1):
            out = torch.empty(30, dtype=torch.float64)
            vector_ops.adam_adjoint(
                ranges, (0.9, 0.999), 1e-15, k, gradients[k - 1], moments[k - 1], cotangent, adjoints, out
            )
            torch.testing.assert_close(out, expected[k - 1], rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
            assert not out[20:24].any()
            assert float(out[7]) == 0.0


@pytest.mark.parametrize(("epsilon", "resolved"), [(1e-15, False), (1e-6, True)])
def test_the_jump_of_adams_first_step_has_no_derivative_unless_epsilon_resolves_it(epsilon, resolved):
    gradient = torch.tensor([1e-3, -2e-3, 6e-16, 5e-4])
    m, s, w = 0.1 * gradient, 0.001 * gradient**2, torch.ones(4)
    out = torch.empty(4)
    adjoints = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    vector_ops.adam_adjoint(
        [ParameterRange(0, 4, 0.1, False)], (0.9, 0.999), epsilon, 1, gradient, (m, s), w, adjoints, out
    )
    exact = -0.1 * epsilon / (gradient.double().abs() + epsilon) ** 2
    assert torch.equal(out, torch.zeros(4)) if not resolved else torch.allclose(out.double(), exact, rtol=1e-6)
