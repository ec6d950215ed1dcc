# SPDX-License-Identifier: Apache-2.0
"""SSIM written independently of the library: every window from its definition as a weighted covariance, in float64."""

import torch
from torch import Tensor


def dense_ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of every window of [V, H, W, C] images: zero padding 5, Gaussian weights of σ 1.5; differentiable."""
    offsets = torch.arange(-5.0, 6.0, dtype=x.dtype)
    one = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = (one[:, None] * one[None, :]) / (one[:, None] * one[None, :]).sum()

    def windows(image: Tensor) -> Tensor:  # [V, H, W, C, 11, 11]
        padded = torch.nn.functional.pad(image, (0, 0, 5, 5, 5, 5))
        return padded.unfold(1, 11, 1).unfold(2, 11, 1)

    wx, wy = windows(x), windows(y)
    mean_x, mean_y = ((w * weights).sum((-1, -2)) for w in (wx, wy))
    centred_x, centred_y = wx - mean_x[..., None, None], wy - mean_y[..., None, None]
    var_x = (weights * centred_x**2).sum((-1, -2))
    var_y = (weights * centred_y**2).sum((-1, -2))
    covariance = (weights * centred_x * centred_y).sum((-1, -2))
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (var_x + var_y + 9e-4)
    return luminance * structure
