# SPDX-License-Identifier: Apache-2.0
"""Operations on flat parameter vectors, fused where memory traffic counts.

On CPU they are the compiled loops of csrc/cpu/vector_ops: sums run over chunks of fixed size in float64, so no result
depends on the number of threads. On a CUDA device the steps are fused kernels (`cuda_ops`) and the rest is plain torch,
as everything is on other devices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..cuda_launch import usable
from . import cuda_ops
from .native import address, is_native, native

CACHED = 1 << 16
"""Numbers that plain torch works on at a time where it needs many temporary vectors, so that they stay in the cache."""


class ParameterRange(NamedTuple):
    """A stretch of the flat layout, usually one attribute group."""

    begin: int
    end: int
    learning_rate: float
    frozen: bool


class RangeStatistics(NamedTuple):
    """Of one range, before the step, in float64: ½ Σ Λ(θ−θ⁰)² and Σ g² of the total gradient (both 0 if frozen)."""

    prior: float
    squared_gradient: float


def dot(a: Float[Tensor, " P"], b: Float[Tensor, " P"]) -> float:
    """⟨a, b⟩ with float64 products and sums."""
    if is_native(a):
        return native("dot", a.dtype)(torch.get_num_threads(), a.numel(), address(a, a), address(b, a))
    return float(torch.dot(a.double(), b.double()))


def axpy(factor: float, x: Float[Tensor, " P"], y: Float[Tensor, " P"]) -> None:
    """In place, y += factor·x."""
    if is_native(y):
        native("axpy", y.dtype)(torch.get_num_threads(), y.numel(), factor, address(x, y), address(y, y))
    else:
        y.add_(x, alpha=factor)


def xpby(x: Float[Tensor, " P"], factor: float, y: Float[Tensor, " P"]) -> None:
    """In place, y = x + factor·y."""
    if is_native(y):
        native("xpby", y.dtype)(torch.get_num_threads(), y.numel(), address(x, y), factor, address(y, y))
    else:
        y.mul_(factor).add_(x)


def scale_add_diagonal(
    scale: float, diagonal: Float[Tensor, " P"] | None, x: Float[Tensor, " P"], y: Float[Tensor, " P"]
) -> None:
    """In place, y = scale·y + diagonal ⊙ x (without the second term for None)."""
    if is_native(y):
        call = native("scale_add_diagonal", y.dtype)
        call(torch.get_num_threads(), y.numel(), scale, address(diagonal, y), address(x, y), address(y, y))
    else:
        y.mul_(scale)
        if diagonal is not None:
            y.addcmul_(diagonal, x)


def cg_update(
    factor: float, p: Float[Tensor, " P"], q: Float[Tensor, " P"], x: Float[Tensor, " P"], r: Float[Tensor, " P"]
) -> None:
    """In place, x += factor·p and r −= factor·q."""
    if is_native(x):
        call = native("cg_update", x.dtype)
        call(torch.get_num_threads(), x.numel(), factor, *(address(vector, x) for vector in (p, q, x, r)))
    else:
        x.add_(p, alpha=factor)
        r.sub_(q, alpha=factor)


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a ⊙ b for tensors of one shape, written to `out` (which may be `a` or `b`) if given."""
    out = torch.empty_like(a) if out is None else out
    if is_native(a):
        call = native("multiply", a.dtype)
        call(torch.get_num_threads(), a.numel(), *(address(tensor, a) for tensor in (a, b, out)))
        return out
    return torch.mul(a, b, out=out)


def diagonal_solve(diagonal: Float[Tensor, " P"], r: Float[Tensor, " P"], z: Float[Tensor, " P"]) -> float:
    """Write z = diagonal ⊙ r; return ⟨r, z⟩ in float64."""
    if is_native(r):
        call = native("diagonal_solve", r.dtype)
        return call(torch.get_num_threads(), r.numel(), address(diagonal, r), address(r, r), address(z, r))
    torch.mul(diagonal, r, out=z)
    return dot(r, z)


def prior_gradient(
    ranges: list[ParameterRange],
    theta: Float[Tensor, " P"],
    anchor: Float[Tensor, " P"] | None,
    strength: Float[Tensor, " P"] | None,
    gradient: Float[Tensor, " P"],
) -> list[RangeStatistics]:
    """In place, gradient += Λ ⊙ (θ − θ⁰) outside frozen ranges (Λ = strength, θ⁰ = anchor; both None: no prior)."""
    if is_native(theta):
        call = native("prior_gradient", theta.dtype)
        vectors = (address(vector, theta) for vector in (theta, anchor, strength, gradient))
        return [RangeStatistics(*row) for row in call(torch.get_num_threads(), ranges, *vectors)]
    if usable(theta):
        vectors = (theta, anchor, strength, gradient, None, None, None)
        return _statistics(cuda_ops.inner_step("prior_gradient", ranges, vectors))
    return [_add_prior(r, theta, anchor, strength, gradient) for r in ranges]


def adam_step(
    ranges: list[ParameterRange],
    theta: Float[Tensor, " P"],
    anchor: Float[Tensor, " P"] | None,
    strength: Float[Tensor, " P"] | None,
    gradient: Float[Tensor, " P"],
    betas: tuple[float, float],
    epsilon: float,
    step: int,
    moments: tuple[Float[Tensor, " P"], Float[Tensor, " P"]],
    theta_next: Float[Tensor, " P"],
) -> list[RangeStatistics]:
    """One Adam step with bias correction on g = gradient + Λ ⊙ (θ − θ⁰).

    m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g², θ_next = θ − rate · m/(1−β₁ᵏ) / (sqrt(s/(1−β₂ᵏ)) + ε) with k = `step`.
    `gradient` becomes g; `moments` = (m, s) are updated in place; frozen ranges keep θ, m and s. `theta_next` may be
    `theta`.
    """
    first, second = moments
    if is_native(theta):
        call = native("adam_step", theta.dtype)
        inputs = (address(vector, theta) for vector in (theta, anchor, strength, gradient))
        outputs = (address(vector, theta) for vector in (first, second, theta_next))
        rows = call(torch.get_num_threads(), ranges, *inputs, *betas, epsilon, step, *outputs)
        return [RangeStatistics(*row) for row in rows]
    if usable(theta):
        vectors = (theta, anchor, strength, gradient, first, second, theta_next)
        return _statistics(cuda_ops.inner_step("adam", ranges, vectors, (*betas, epsilon, step)))
    statistics = []
    for r in ranges:
        statistics.append(_add_prior(r, theta, anchor, strength, gradient))
        part = slice(r.begin, r.end)
        if r.frozen:
            theta_next[part] = theta[part]
            continue
        g = gradient[part]
        first[part].mul_(betas[0]).add_(g, alpha=1.0 - betas[0])
        second[part].mul_(betas[1]).addcmul_(g, g, value=1.0 - betas[1])
        scale = (second[part] / (1.0 - betas[1] ** step)).sqrt_().add_(epsilon)
        theta_next[part] = theta[part] - (r.learning_rate / (1.0 - betas[0] ** step)) * first[part] / scale
    return statistics


def adam_adjoint(
    ranges: list[ParameterRange],
    betas: tuple[float, float],
    epsilon: float,
    step: int,
    gradient: Float[Tensor, " P"],
    moments: tuple[Float[Tensor, " P"], Float[Tensor, " P"]],
    cotangent: Float[Tensor, " P"],
    adjoints: tuple[Float[Tensor, " P"], Float[Tensor, " P"]],
    out: Float[Tensor, " P"],
) -> None:
    """The derivative of `adam_step` number `step`, backwards; see `inner.adam` for the formulas.

    The first step is r · sign(g) but for a transition as wide as ε. Where the gradients' own precision does not resolve
    that (ε below the rounding of a typical entry of the range), the transition is a jump and has no derivative: what
    rounding left of a g that vanishes would otherwise outweigh everything, at a height of r/ε.

    Args:
        step: counted from 1, before which both moments were 0.
        gradient: the total gradient g of that step.
        moments: m and s after it.
        cotangent: ∂L/∂θ_{k+1}.
        adjoints: (u_m, u_s) in float64, updated in place; those of frozen ranges stay.
        out: becomes ∂L/∂g, 0 in frozen ranges.
    """
    first_correction, second_correction = 1.0 - betas[0] ** step, 1.0 - betas[1] ** step
    for r in ranges:
        if r.frozen:
            out[r.begin : r.end] = 0
            continue
        jumps = step == 1 and epsilon < rounding_of(gradient[r.begin : r.end])
        for begin in range(r.begin, r.end, CACHED):
            part = slice(begin, min(r.end, begin + CACHED))
            g, m, s, w = (vector[part].double() for vector in (gradient, *moments, cotangent))
            u_first, u_second = (vector[part] for vector in adjoints)
            root = (s / second_correction).sqrt_()
            scale = root + epsilon
            by_first = torch.where(s > 0, -(r.learning_rate / first_correction) / scale, 0.0)
            by_second = torch.where(s > 0, -by_first * (m / scale) / (2 * second_correction * root), 0.0)
            if jumps:
                own = 0.0
            elif step == 1:
                # m and s are of g alone, and their parts of the derivative cancel but for this, far below rounding.
                own = torch.where(s > 0, -r.learning_rate * epsilon / (g.abs() + epsilon).square_(), 0.0) * w
            else:
                u_first.addcmul_(by_first, w)
                u_second.addcmul_(by_second, w)
                own = 0.0
            out[part] = (1.0 - betas[0]) * u_first + 2.0 * (1.0 - betas[1]) * g * u_second + own
            u_first.mul_(betas[0])
            u_second.mul_(betas[1])


def rounding_of(vector: Float[Tensor, " n"]) -> float:
    """What rounding does to an entry of the size of their root mean square."""
    return torch.finfo(vector.dtype).eps * math.sqrt(dot(vector, vector) / max(1, len(vector)))


def prior_adjoint(
    theta: Float[Tensor, " P"],
    anchor: Float[Tensor, " P"],
    strength: Float[Tensor, " P"],
    by_gradient: Float[Tensor, " P"],
    by_theta: Float[Tensor, " P"],
    by_anchor: Float[Tensor, " P"],
    by_strength: Float[Tensor, " P"],
) -> None:
    """The derivative of Λ ⊙ (θ − θ⁰) in the gradient, backwards: with ḡ = `by_gradient`, in place,

    by_theta += Λ ⊙ ḡ, by_anchor −= Λ ⊙ ḡ, by_strength += (θ − θ⁰) ⊙ ḡ.
    """
    pulled = strength * by_gradient
    by_theta.add_(pulled)
    by_anchor.sub_(pulled)
    by_strength.addcmul_(torch.sub(theta, anchor, out=pulled), by_gradient)


def sgd_step(
    ranges: list[ParameterRange],
    theta: Float[Tensor, " P"],
    anchor: Float[Tensor, " P"] | None,
    strength: Float[Tensor, " P"] | None,
    gradient: Float[Tensor, " P"],
    theta_next: Float[Tensor, " P"],
) -> list[RangeStatistics]:
    """θ_next = θ − rate · g with g as in `adam_step`; `gradient` becomes g. `theta_next` may be `theta`."""
    if is_native(theta):
        call = native("sgd_step", theta.dtype)
        vectors = (address(vector, theta) for vector in (theta, anchor, strength, gradient, theta_next))
        return [RangeStatistics(*row) for row in call(torch.get_num_threads(), ranges, *vectors)]
    if usable(theta):
        vectors = (theta, anchor, strength, gradient, None, None, theta_next)
        return _statistics(cuda_ops.inner_step("sgd", ranges, vectors))
    statistics = []
    for r in ranges:
        statistics.append(_add_prior(r, theta, anchor, strength, gradient))
        part = slice(r.begin, r.end)
        theta_next[part] = theta[part] if r.frozen else theta[part] - r.learning_rate * gradient[part]
    return statistics


def _statistics(sums: Float[Tensor, "2 R"]) -> list[RangeStatistics]:
    return [RangeStatistics(*row) for row in sums.T.tolist()]


def _add_prior(
    r: ParameterRange, theta: Tensor, anchor: Tensor | None, strength: Tensor | None, gradient: Tensor
) -> RangeStatistics:
    """`prior_gradient` of one range in torch."""
    if r.frozen:
        return RangeStatistics(0.0, 0.0)
    part = slice(r.begin, r.end)
    prior = 0.0
    if anchor is not None and strength is not None:
        offset = theta[part] - anchor[part]
        prior = 0.5 * float((strength[part].double() * offset.double().square()).sum())
        gradient[part] += strength[part] * offset
    return RangeStatistics(prior, float(gradient[part].double().square().sum()))
