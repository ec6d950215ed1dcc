# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and their company."""

import builtins
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ns_diff3r.evaluation.metrics import ImageMetrics, psnr, ssim


def image_pair(height: int = 24, width: int = 31, noise: float = 0.1, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(height)
    smooth = torch.linspace(0, 3, width)[None, :, None] + torch.linspace(0, 2, height)[:, None, None]
    truth = 0.5 + 0.4 * torch.sin(smooth + torch.tensor([0.0, 1.0, 2.0]))
    return (truth + noise * torch.randn(height, width, 3, generator=generator)).clamp(0, 1).to(dtype), truth.to(dtype)


def test_psnr_with_and_without_torchmetrics(monkeypatch):
    image, truth = image_pair()
    expected = -10 * math.log10(float(np.mean((image.double().numpy() - truth.double().numpy()) ** 2)))
    assert psnr(image, truth) == pytest.approx(expected, abs=1e-5)  # float32 inside torchmetrics
    original = builtins.__import__

    def refuse(name: str, *arguments: object, **options: object) -> object:
        if name.startswith("torchmetrics"):
            raise ImportError(name)
        return original(name, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert psnr(image, truth) == pytest.approx(expected, abs=1e-9)
    assert psnr(truth, truth) == math.inf


def naive_ssim(image: Tensor, truth: Tensor) -> float:
    """Window by window, from the definition with sample variances."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    x, y = image.double().numpy(), truth.double().numpy()
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            for channel in range(3):
                a, b = (stack[row : row + 11, column : column + 11, channel] for stack in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                unbiased = 121 / 120
                var_a = unbiased * (weights * (a - mean_a) ** 2).sum()
                var_b = unbiased * (weights * (b - mean_b) ** 2).sum()
                cov = unbiased * (weights * (a - mean_a) * (b - mean_b)).sum()
                top = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
                values.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(11, 11), (14, 19)])
def test_ssim_is_its_definition(size):
    image, truth = image_pair(*size)
    assert ssim(image, truth) == pytest.approx(naive_ssim(image, truth), abs=1e-12)
    assert ssim(truth, truth) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("size", "noise"), [((11, 40), 0.05), ((33, 47), 0.2), ((64, 64), 0.01)])
def test_ssim_equals_scikit_images(size, noise):
    skimage = pytest.importorskip("skimage.metrics")
    image, truth = image_pair(*size, noise=noise, dtype=torch.float64)
    expected = skimage.structural_similarity(
        image.numpy(), truth.numpy(), win_size=11, gaussian_weights=True, channel_axis=2, data_range=1.0
    )
    assert ssim(image, truth) == pytest.approx(expected, abs=1e-10)
    expected = skimage.structural_similarity(
        image.float().numpy(), truth.float().numpy(), win_size=11, gaussian_weights=True, channel_axis=2, data_range=1.0
    )
    assert ssim(image.float(), truth.float()) == pytest.approx(expected, abs=2e-5)  # float32 inside scikit-image


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(*image_pair(10, 20))


def test_every_image_has_the_same_keys():
    metrics = ImageMetrics(None)
    results = [metrics(*image_pair(size)) for size in (12, 20)]
    assert tuple(results[0]) == tuple(results[1]) == metrics.names == ("psnr", "ssim")
    assert metrics.notes == []


def test_images_are_judged_as_they_are_shown():
    _, truth = image_pair()
    metrics = ImageMetrics(None)
    beyond = truth.clone()
    beyond[:, :10] = 1.5
    assert metrics(beyond, truth) == metrics(beyond.clamp(0, 1), truth)


def test_metrics_that_small_images_cannot_have_are_left_out_with_a_line():
    metrics = ImageMetrics(None, smallest_side=10)
    assert metrics.names == ("psnr",)
    assert tuple(metrics(*image_pair(10, 12))) == ("psnr",)
    assert metrics.notes == ["SSIM left out: images of 10 pixels are smaller than its window of 11"]


def test_lpips_is_left_out_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    metrics = ImageMetrics.find("auto")
    assert metrics.names == ("psnr", "ssim")
    assert len(metrics.notes) == 1
    assert "LPIPS left out" in metrics.notes[0]
    assert ImageMetrics.find("off").notes == ["LPIPS switched off"]
    with pytest.raises((ImportError, FileNotFoundError), match="LPIPS"):
        ImageMetrics.find("on")


def test_lpips_joins_the_others():
    class Fixed:
        def __call__(self, image: Tensor, truth: Tensor) -> Tensor:
            assert image.shape == truth.shape == (1, 24, 31, 3)
            return (image - truth).abs().mean().reshape(1)

    metrics = ImageMetrics(Fixed())  # pyright: ignore[reportArgumentType]
    image, truth = image_pair()
    assert metrics(image, truth)["lpips"] == pytest.approx(float((image - truth).abs().mean()))
    assert ImageMetrics(Fixed(), smallest_side=12).names == ("psnr", "ssim")  # pyright: ignore[reportArgumentType]


def test_before_and_after():
    image, truth = image_pair()
    closer = 0.5 * (image + truth)
    metrics = ImageMetrics(None)
    found = metrics.before_and_after(image, closer, truth)
    assert list(found) == [f"{name}_{when}" for name in ("psnr", "ssim") for when in ("before", "after", "gain")]
    assert found["psnr_before"] == metrics(image, truth)["psnr"]
    assert found["psnr_after"] == metrics(closer, truth)["psnr"]
    assert found["psnr_gain"] == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert found["ssim_gain"] == found["ssim_after"] - found["ssim_before"] > 0
