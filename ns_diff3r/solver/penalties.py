# SPDX-License-Identifier: Apache-2.0
"""Pointwise penalties ρ(e) of a residual e = rendering − photograph, with their derivatives and Gauss-Newton curvature.

The curvature is that of the square-root residual r = sqrt(ρ): 2 (dr/de)² = ρ'²/(2ρ), the W of the normal operator. It
is never negative; for L1, whose second derivative is 0 almost everywhere, it is 1/(2|e|), bounded by an ε.

    kind     ρ                                         ρ'               ρ''        curvature
    mse      e²                                        2e               2          2
    l1       |e|                                       sign(e)          0          1 / (2 max(|e|, ε))
    huber    e²/2, beyond δ: δ(|e| − δ/2)              clamp(e, −δ, δ)  1 | 0      1, beyond δ: δ / (2 (|e| − δ/2))
    charbonnier   s − δ, s = √(e² + δ²)                e/s              δ²/s³      (s + δ) / (2s²)

Charbonnier is L1 with its kink rounded off over δ: it has a curvature of its own, where L1 has none.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..cuda_launch import usable
from . import cuda_ops
from .native import address, is_native, native

PenaltyKind = Literal["l1", "mse", "huber", "charbonnier"]
KINDS = ("l1", "mse", "huber", "charbonnier")
WITH_CURVATURE = ("l1", "mse", "huber", "charbonnier")
"""Penalties that `curvature` knows, and Gauss-Newton steps can weight."""
_NUMBERS: dict[str, int] = {"l1": 0, "mse": 1, "huber": 2}  # csrc/cpu/image_ops.h: Penalty

Images = Float[Tensor, "V H W 3"]


def kernel_number(kind: PenaltyKind) -> int | None:
    """By which the compiled loops and kernels know a penalty; None for one that is written in torch alone."""
    return _NUMBERS.get(kind)


def total_and_gradient(
    kind: PenaltyKind, rendered: Images, target: Images, *, delta: float, scale: float, signs: Images | None = None
) -> tuple[float, Images]:
    """(Σ ρ(e) in float64, scale·ρ'(e)).

    Args:
        kind: which ρ.
        rendered: contiguous.
        target: contiguous, of the same shape and dtype.
        delta: of Huber and Charbonnier.
        scale: factor of the gradient (not of the sum).
        signs: for L1 the signs in ρ = signs·e, frozen elsewhere; None takes those of e.
    """
    if is_native(rendered) and kind in _NUMBERS:
        gradient = torch.empty_like(rendered)
        tensors = (address(tensor, rendered) for tensor in (rendered, target, signs, gradient))
        call = native("pixel_loss", rendered.dtype)
        total = call(torch.get_num_threads(), rendered.numel(), _NUMBERS[kind], delta, scale, *tensors)
        return total, gradient
    if usable(rendered) and kind in _NUMBERS:
        return cuda_ops.pixel_loss(_NUMBERS[kind], rendered, target, delta, scale, signs)
    error = rendered - target
    if kind == "mse":
        return float(error.double().square().sum()), scale * 2 * error
    if kind == "charbonnier":
        root = (error.square() + delta * delta).sqrt_()
        # s − δ = e²/(s + δ), without the difference of two nearly equal numbers
        return float((error.double().square() / (root.double() + delta)).sum()), (error / root).mul_(scale)
    if kind == "huber":
        inside = error.clamp(-delta, delta)
        return float((inside.double() * (error.double() - 0.5 * inside.double())).sum()), scale * inside
    signs = error.sign() if signs is None else signs
    return float((signs.double() * error.double()).sum()), scale * signs


def hessian_product(
    kind: PenaltyKind, rendered: Images, target: Images, images: Images, *, delta: float, scale: float
) -> Images:
    """scale·ρ''(e)∘images, ρ'' being that almost everywhere; arguments as of `total_and_gradient`."""
    if is_native(rendered) and kind in _NUMBERS:
        out = torch.empty_like(rendered)
        tensors = (address(tensor, rendered) for tensor in (rendered, target, images, out))
        call = native("pixel_hessian_product", rendered.dtype)
        call(torch.get_num_threads(), rendered.numel(), _NUMBERS[kind], delta, scale, *tensors)
        return out
    if kind == "mse":
        return 2.0 * scale * images
    if kind == "huber":
        return torch.where((rendered - target).abs() <= delta, scale * images, 0.0)
    if kind == "charbonnier":
        squared = (rendered - target).square_().add_(delta * delta)
        return squared.pow_(-1.5).mul_(scale * delta * delta).mul_(images)
    return torch.zeros_like(images)


def curvature(kind: PenaltyKind, error: Images, delta: float, epsilon: float) -> Images:
    """ρ'²/(2ρ) > 0, see the module's table."""
    if kind == "mse":
        return torch.full_like(error, 2.0)
    if kind == "charbonnier":
        squared = error.square() + delta * delta
        return (squared.sqrt() + delta) / (2 * squared)
    magnitude = error.abs()
    if kind == "huber":
        return torch.where(magnitude <= delta, 1.0, delta / (2 * magnitude.clamp_min(delta) - delta)).to(error.dtype)
    return 0.5 / magnitude.clamp_min(epsilon)


def differentiable(kind: PenaltyKind, error: Images, delta: float) -> Images:
    """ρ(e) in torch operations, for autograd."""
    if kind == "mse":
        return error.square()
    if kind == "charbonnier":
        return (error.square() + delta * delta).sqrt() - delta
    if kind == "huber":
        inside = error.detach().abs() <= delta
        return torch.where(inside, 0.5 * error.square(), delta * (error.detach().sign() * error - 0.5 * delta))
    return error.detach().sign() * error
