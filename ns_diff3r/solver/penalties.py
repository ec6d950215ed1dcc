# SPDX-License-Identifier: Apache-2.0
"""Pointwise penalties ρ(e) of a residual e = rendering − photograph, with their derivatives and Gauss-Newton curvature.

The curvature is that of the square-root residual r = sqrt(ρ): 2 (dr/de)² = ρ'²/(2ρ), the W of the normal operator. It
is never negative; for L1, whose second derivative is 0 almost everywhere, it is 1/(2|e|), bounded by an ε.

    kind     ρ                                         ρ'               ρ''        curvature
    mse      e²                                        2e               2          2
    l1       |e|                                       sign(e)          0          1 / (2 max(|e|, ε))
    huber    e²/2, beyond δ: δ(|e| − δ/2)              clamp(e, −δ, δ)  1 | 0      1, beyond δ: δ / (2 (|e| − δ/2))
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..cuda_launch import usable
from . import cuda_ops
from .native import address, is_native, native

PenaltyKind = Literal["l1", "mse", "huber"]
_NUMBERS: dict[str, int] = {"l1": 0, "mse": 1, "huber": 2}  # csrc/cpu/image_ops.h: Penalty

Images = Float[Tensor, "V H W 3"]


def total_and_gradient(
    kind: PenaltyKind, rendered: Images, target: Images, *, delta: float, scale: float, signs: Images | None = None
) -> tuple[float, Images]:
    """(Σ ρ(e) in float64, scale·ρ'(e)).

    Args:
        kind: which ρ.
        rendered: contiguous.
        target: contiguous, of the same shape and dtype.
        delta: of Huber.
        scale: factor of the gradient (not of the sum).
        signs: for L1 the signs in ρ = signs·e, frozen elsewhere; None takes those of e.
    """
    if is_native(rendered):
        gradient = torch.empty_like(rendered)
        tensors = (address(tensor, rendered) for tensor in (rendered, target, signs, gradient))
        call = native("pixel_loss", rendered.dtype)
        total = call(torch.get_num_threads(), rendered.numel(), _NUMBERS[kind], delta, scale, *tensors)
        return total, gradient
    if usable(rendered):
        return cuda_ops.pixel_loss(_NUMBERS[kind], rendered, target, delta, scale, signs)
    error = rendered - target
    if kind == "mse":
        return float(error.double().square().sum()), scale * 2 * error
    if kind == "huber":
        inside = error.clamp(-delta, delta)
        return float((inside.double() * (error.double() - 0.5 * inside.double())).sum()), scale * inside
    signs = error.sign() if signs is None else signs
    return float((signs.double() * error.double()).sum()), scale * signs


def second_derivative(kind: PenaltyKind, error: Images, delta: float) -> Images:
    """ρ''(e) almost everywhere."""
    if kind == "mse":
        return torch.full_like(error, 2.0)
    if kind == "huber":
        return (error.abs() <= delta).to(error.dtype)
    return torch.zeros_like(error)


def curvature(kind: PenaltyKind, error: Images, delta: float, epsilon: float) -> Images:
    """ρ'²/(2ρ) > 0, see the module's table."""
    if kind == "mse":
        return torch.full_like(error, 2.0)
    magnitude = error.abs()
    if kind == "huber":
        return torch.where(magnitude <= delta, 1.0, delta / (2 * magnitude.clamp_min(delta) - delta)).to(error.dtype)
    return 0.5 / magnitude.clamp_min(epsilon)
