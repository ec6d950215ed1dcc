# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and LPIPS as the field's tables have them, of images in [0, 1]."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..training.perceptual import SMALLEST_SIZE, Lpips, find_lpips

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(image: Float[Tensor, "*batch 3"], truth: Float[Tensor, "*batch 3"]) -> float:
    """Peak signal-to-noise ratio in dB over all values; infinite for equal images.

    By torchmetrics where it is installed, else by the same formula.
    """
    image, truth = image.double(), truth.double()
    try:
        from torchmetrics.functional.image import peak_signal_noise_ratio
    except ImportError:
        error = float((image - truth).square().mean())
        return math.inf if error == 0.0 else -10.0 * math.log10(error)
    return float(peak_signal_noise_ratio(image, truth, data_range=1.0))


def ssim(image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> float:
    """Structural similarity: 11x11 Gaussian windows of sigma 1.5 that lie inside the image, mean over channels.

    Equals scikit-image's structural_similarity(image, truth, win_size=11, gaussian_weights=True, channel_axis=2,
    data_range=1), which normalises variances by n - 1 with n = 121 and leaves out a border of 5 pixels.

    Raises:
        ValueError: images smaller than the window.
    """
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} pixels on a side, got {list(image.shape[:2])}")
    x, y = (stack.double().movedim(-1, 0)[:, None] for stack in (image, truth))  # [3, 1, H, W]
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights = weights / weights.sum()

    def windowed(values: Tensor) -> Tensor:
        rows = functional.conv2d(values, weights.view(1, 1, WINDOW, 1))
        return functional.conv2d(rows, weights.view(1, 1, 1, WINDOW))

    mean_x, mean_y = windowed(x), windowed(y)
    normalization = WINDOW**2 / (WINDOW**2 - 1)
    variance_x = normalization * (windowed(x * x) - mean_x * mean_x)
    variance_y = normalization * (windowed(y * y) - mean_y * mean_y)
    covariance = normalization * (windowed(x * y) - mean_x * mean_y)
    numerator = (2 * mean_x * mean_y + K1**2) * (2 * covariance + K2**2)
    denominator = (mean_x * mean_x + mean_y * mean_y + K1**2) * (variance_x + variance_y + K2**2)
    return float((numerator / denominator).mean())


class ImageMetrics:
    """The metrics of one run: which of them there are is settled once, so that every image has the same keys."""

    def __init__(self, lpips: Lpips | None, smallest_side: int | None = None, notes: tuple[str, ...] = ()) -> None:
        """`smallest_side`: of the images to come, in pixels; metrics that need larger ones are left out."""
        self.notes = list(notes)
        self.with_ssim = smallest_side is None or smallest_side >= WINDOW
        if not self.with_ssim:
            self.notes.append(
                f"SSIM left out: images of {smallest_side} pixels are smaller than its window of {WINDOW}"
            )
        if lpips is not None and smallest_side is not None and smallest_side < SMALLEST_SIZE:
            self.notes.append(f"LPIPS left out: images of {smallest_side} pixels are smaller than {SMALLEST_SIZE}")
            lpips = None
        self.lpips = lpips

    @staticmethod
    def find(lpips: str = "auto", vgg_weights: Path | None = None, smallest_side: int | None = None) -> ImageMetrics:
        """The metrics that can be had here. `lpips`: "auto", "on" (an error without its weights) or "off".

        `notes` then says in one line each which weights LPIPS uses, or why a metric is left out.
        """
        if lpips == "off":
            return ImageMetrics(None, smallest_side, ("LPIPS switched off",))
        metric, note = find_lpips(vgg_weights, required=lpips == "on")
        return ImageMetrics(metric, smallest_side, (note,))

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of every result."""
        return ("psnr", *(("ssim",) if self.with_ssim else ()), *(("lpips",) if self.lpips is not None else ()))

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> dict[str, float]:
        """Metrics of one image, clamped to [0, 1] as it would be shown."""
        image = image.clamp(0, 1)
        truth = truth.to(image)
        results = {"psnr": psnr(image, truth)}
        if self.with_ssim:
            results["ssim"] = ssim(image, truth)
        if self.lpips is not None:
            results["lpips"] = float(self.lpips(image[None], truth[None]))
        return results

    def before_and_after(
        self, before: Float[Tensor, "H W 3"], after: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]
    ) -> dict[str, float]:
        """ "<metric>_before", "<metric>_after" and "<metric>_gain" (after minus before) of every metric."""
        first, second = self(before, truth), self(after, truth)
        results = {}
        for name in self.names:
            results |= {
                f"{name}_before": first[name],
                f"{name}_after": second[name],
                f"{name}_gain": second[name] - first[name],
            }
        return results
