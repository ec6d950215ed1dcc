# SPDX-License-Identifier: Apache-2.0
"""The learned parts of the compact backbone: shared image features, the volume's U-Net, and the decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .compact_resolution import enlarged


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), the last convolution starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(channels),
            nn.SiLU(),
            zero_initialized(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Same shape."""
        return x + self.layers(x)


class ImageFeatures(NamedTuple):
    """Features of padded images at three resolutions."""

    half: Float[Tensor, "V C1 H/2 W/2"]
    quarter: Float[Tensor, "V C2 H/4 W/4"]
    matching: Float[Tensor, "V M H/4 W/4"]
    """Unit vectors that are compared between views."""


class FeatureEncoder(nn.Module):
    """A small CNN that every view goes through."""

    def __init__(self, width: int, matching_channels: int) -> None:
        super().__init__()
        self.to_half = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            ResidualBlock(width),
        )
        self.to_quarter = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            ResidualBlock(2 * width),
            ResidualBlock(2 * width),
        )
        self.matching = nn.Conv2d(2 * width, matching_channels, 1)

    def forward(self, images: Float[Tensor, "V 3 H W"]) -> ImageFeatures:
        """Features of images in [0, 1] whose sides are multiples of 4."""
        half = self.to_half(2 * images - 1)
        quarter = self.to_quarter(half)
        matching = nn.functional.normalize(self.matching(quarter), dim=1, eps=1e-3)
        return ImageFeatures(half, quarter, matching)


class VolumeUNet(nn.Module):
    """U-Net over (cost volume, image features) at quarter resolution, down to 1/16."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.inward = nn.Conv2d(in_channels, 2 * width, 3, padding=1)
        self.first = ResidualBlock(2 * width)
        self.down = nn.Sequential(nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1), ResidualBlock(3 * width))
        self.bottom = nn.Sequential(
            nn.Conv2d(3 * width, 4 * width, 3, stride=2, padding=1),
            ResidualBlock(4 * width),
            ResidualBlock(4 * width),
        )
        self.up = nn.Conv2d(7 * width, 3 * width, 3, padding=1)
        self.second = ResidualBlock(3 * width)
        self.outward = nn.Conv2d(5 * width, 2 * width, 3, padding=1)
        self.third = ResidualBlock(2 * width)
        self.last = nn.Sequential(_norm(2 * width), nn.SiLU())

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V 2*width h w"]:
        """Features of the same resolution; h and w are multiples of 4."""
        level0 = self.first(self.inward(x))
        level1 = self.down(level0)
        level2 = self.bottom(level1)
        level1 = self.second(self.up(torch.cat([enlarged(level2, 2), level1], dim=1)))
        return self.last(self.third(self.outward(torch.cat([enlarged(level1, 2), level0], dim=1))))


class Decoder(nn.Module):
    """From quarter-resolution features to one feature vector a pixel, with skips from the CNN and the image."""

    def __init__(self, width: int, num_cues: int, out_channels: int) -> None:
        super().__init__()
        self.to_half = nn.Conv2d(2 * width + width + num_cues, 2 * out_channels, 3, padding=1)
        self.half_block = ResidualBlock(2 * out_channels)
        self.to_full = nn.Conv2d(2 * out_channels + 3 + num_cues, out_channels, 3, padding=1)
        self.full_block = ResidualBlock(out_channels)
        self.last = nn.Sequential(_norm(out_channels), nn.SiLU())

    def forward(
        self,
        quarter: Float[Tensor, "V 2*width h w"],
        half: Float[Tensor, "V width 2*h 2*w"],
        image: Float[Tensor, "V 3 4*h 4*w"],
        cues: Float[Tensor, "V num_cues 4*h 4*w"],
    ) -> Float[Tensor, "V out_channels 4*h 4*w"]:
        """Features at full resolution; `cues` are what is known about each pixel (depth, confidence)."""
        cues_half = nn.functional.avg_pool2d(cues, 2)
        x = self.half_block(self.to_half(torch.cat([enlarged(quarter, 2), half, cues_half], dim=1)))
        x = self.full_block(self.to_full(torch.cat([enlarged(x, 2), 2 * image - 1, cues], dim=1)))
        return self.last(x)


def zero_initialized(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, with weights and bias zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(4 if channels % 4 == 0 else 1, channels)
