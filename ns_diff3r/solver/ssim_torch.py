# SPDX-License-Identifier: Apache-2.0
"""SSIM in plain torch, for devices without compiled loops; the same functions as csrc/cpu/image_ops, see `ssim`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

WINDOW_RADIUS = 5
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def window_taps() -> list[float]:
    """The 11 taps of the Gaussian window along one axis; they sum to 1."""
    offsets = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, dtype=torch.float64) / SIGMA
    taps = torch.exp(-0.5 * offsets.square())
    return (taps / taps.sum()).tolist()


def window_filter(images: Float[Tensor, "V H W C"], taps: list[float]) -> Float[Tensor, "V H W C"]:
    """Filter along both image axes with zero padding; self-adjoint, since the taps are symmetric."""
    planes = images.permute(0, 3, 1, 2)
    kernel = torch.tensor(taps, dtype=images.dtype, device=images.device)
    views, channels, height, width = planes.shape
    flat = planes.reshape(views * channels, 1, height, width)
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(WINDOW_RADIUS, 0))
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, WINDOW_RADIUS))
    return flat.view(views, channels, height, width).permute(0, 2, 3, 1).contiguous()


def window_statistics(
    x: Tensor, y: Tensor, target_mean: Tensor, target_variance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(μ, a1, a2, b1, b2) of every window; SSIM = a1·a2 / (b1·b2)."""
    taps = window_taps()
    mean = window_filter(x, taps)
    a1 = 2 * mean * target_mean + C1
    a2 = 2 * (window_filter(x * y, taps) - mean * target_mean) + C2
    b1 = mean.square() + target_mean.square() + C1
    b2 = window_filter(x.square(), taps) - mean.square() + target_variance + C2
    return mean, a1, a2, b1, b2


def value_and_partials(
    x: Tensor, y: Tensor, target_mean: Tensor, target_variance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """SSIM of every window and its derivatives with respect to μ = Gx, G(x²) and G(xy)."""
    mean, a1, a2, b1, b2 = window_statistics(x, y, target_mean, target_variance)
    f = 1 / (b1 * b2)
    ssim = a1 * a2 * f
    partial_mean = 2 * (target_mean * (a2 - a1) * f + mean * ssim * (1 / b2 - 1 / b1))
    return ssim, partial_mean, -ssim / b2, 2 * a1 * f


def partials_jvp(
    x: Tensor, y: Tensor, target_mean: Tensor, target_variance: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of the three partial derivatives along v."""
    taps = window_taps()
    mean, a1, a2, b1, b2 = window_statistics(x, y, target_mean, target_variance)
    d_mean, d_square, d_product = (window_filter(image, taps) for image in (v, 2 * x * v, y * v))
    f = 1 / (b1 * b2)
    ssim = a1 * a2 * f
    d_a1, d_a2 = 2 * target_mean * d_mean, 2 * (d_product - target_mean * d_mean)
    d_b1 = 2 * mean * d_mean
    d_b2 = d_square - d_b1
    d_f = -f * (d_b1 / b1 + d_b2 / b2)
    d_ssim = f * (d_a1 * a2 + a1 * d_a2) + a1 * a2 * d_f
    tangent_mean = 2 * (
        target_mean * ((d_a2 - d_a1) * f + (a2 - a1) * d_f)
        + (d_mean * ssim + mean * d_ssim) * (1 / b2 - 1 / b1)
        + mean * ssim * (d_b1 / b1.square() - d_b2 / b2.square())
    )
    return tangent_mean, (ssim * d_b2 / b2 - d_ssim) / b2, 2 * (d_a1 * f + a1 * d_f)
