# SPDX-License-Identifier: Apache-2.0
"""The backbone `compact`: a small posed multi-view network that already works before it is trained.

In the family of MVSplat and DepthSplat: image features shared by all views, a cost volume over planes of constant
inverse depth, a U-Net that regularises it, one Gaussian per pixel. Its distinction is that every learned part corrects
something that is computed: depths come from photometric matching, colours from the pixels, sizes from the pixels'
footprints, opacities from the confidence of the matching. The last layers start at zero, so the network begins as that
predictor, and a few photographs and minutes on a CPU are enough to improve on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from ..splats import Gaussians, Views
from ..splats.spherical_harmonics import MAX_SH_DEGREE
from .compact_backdrop import backdrop_gaussians, to_cells
from .compact_gaussians import Corrections, pixel_gaussians
from .compact_geometry import SweepGeometry, check_context, sweep_geometry
from .compact_matching import (
    MatchingConfig,
    candidate_fractions,
    consistency,
    expected_fraction,
    photometric_logits,
)
from .compact_networks import STRIDE, Decoder, FeatureEncoder, VolumeUNet, zero_initialized
from .protocol import Backbone, BackboneConfig, Prediction

MIN_SIZE = 8
"""Smallest side of an image, in pixels."""
NUM_CUES = 4
"""Maps of what matching knows: inverse depth, its confidence, support by and conflict with other views."""


@dataclass
class CompactConfig(BackboneConfig):
    """Settings of the compact backbone (about 1.5 million parameters by default)."""

    _target: type[Backbone] = field(default_factory=lambda: CompactBackbone)
    num_depths: int = 32
    """Depth candidates of the plane sweep, evenly spaced in inverse depth between near and far."""
    num_neighbors: int = 3
    """Each view is matched with at most this many of the others, the nearest."""
    width: int = 32
    """Channels of the image features at half resolution; twice, three and four times as many further down."""
    matching_channels: int = 16
    """Channels of the learned features that are compared between views."""
    feature_channels: int = 32
    """Channels of the decoder's output, from which Gaussians and their uncertainty are read."""
    sh_degree: int = 1
    """Degree of the spherical harmonics, 0 to 4."""
    matching_stride: int = 0
    """Photographs are matched at their resolution (1), 1/2 (2) or 1/4 (4); 0: the finest of these at which the longer
    side is at most 96 pixels (or 1/4)."""
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    """Photometric matching."""
    footprint: float = 0.4
    """Standard deviation of a Gaussian at initialisation, in pixels."""
    opacity: float = 0.6
    """Opacity at initialisation of a Gaussian whose depth is neither supported nor contradicted by other views."""

    def __post_init__(self) -> None:
        if self.num_depths < 2:
            raise ValueError(f"CompactConfig.num_depths must be at least 2, not {self.num_depths}")
        if self.num_neighbors < 1:
            raise ValueError(f"CompactConfig.num_neighbors must be at least 1, not {self.num_neighbors}")
        if not 0 <= self.sh_degree <= MAX_SH_DEGREE:
            raise ValueError(f"CompactConfig.sh_degree must be 0 to {MAX_SH_DEGREE}, not {self.sh_degree}")
        if self.matching_stride not in (0, 1, 2, 4):
            raise ValueError(f"CompactConfig.matching_stride must be 0, 1, 2 or 4, not {self.matching_stride}")
        if not 0.0 < self.opacity < 1.0 or not self.footprint > 0.0:
            raise ValueError("CompactConfig: opacity must lie between 0 and 1, footprint must be positive")


def tiny_config(**changes: Any) -> CompactConfig:
    """Settings of a network of about 0.4 million parameters, for tests and short runs on a CPU."""
    return CompactConfig(**{"width": 16, "matching_channels": 8, "feature_channels": 16, **changes})


class CompactBackbone(Backbone):
    """See the module."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.sh_degree = config.sh_degree
        self.feature_dim = config.feature_channels + NUM_CUES
        width, depths = config.width, config.num_depths
        self.encoder = FeatureEncoder(width, config.matching_channels)
        self.volume_unet = VolumeUNet(2 * depths + 2 * width + NUM_CUES, width)
        self.volume_head = zero_initialized(nn.Conv2d(2 * width, depths, 3, padding=1))
        self.correlation_gain = nn.Parameter(torch.zeros(()))
        self.decoder = Decoder(width, NUM_CUES, config.feature_channels)
        outputs = Corrections.num_channels(config.sh_degree)
        self.gaussian_head = zero_initialized(nn.Conv2d(config.feature_channels, outputs, 1))
        self.backdrop_head = zero_initialized(nn.Conv2d(config.feature_channels, outputs, 1))

    def gaussian_head_parameters(self) -> Iterator[nn.Parameter]:
        """Decoder and last layers: what stage 2 trains."""
        return chain(self.decoder.parameters(), self.gaussian_head.parameters(), self.backdrop_head.parameters())

    def forward(self, context: Views) -> Prediction:
        """One Gaussian per pixel of every context view, and the backdrop.

        Raises:
            ValueError: fewer than two views, no near or far, images smaller than MIN_SIZE.
        """
        near, far = check_context(context, MIN_SIZE)
        weight = self.gaussian_head.weight
        images = context.images.to(weight.dtype).permute(0, 3, 1, 2).clamp(0, 1)
        height, width = images.shape[-2:]
        padded = _pad_to(images, math.ceil(height / STRIDE) * STRIDE, math.ceil(width / STRIDE) * STRIDE)

        stride = self._matching_stride(height, width)
        small = avg_pool2d(
            _pad_to(images, math.ceil(height / stride) * stride, math.ceil(width / stride) * stride), stride
        )
        size = (small.shape[-2], small.shape[-1])
        geometry = sweep_geometry(context, near, far, self.config.num_neighbors, stride, size, weight.dtype)
        photometric = photometric_logits(small, geometry, self.config.num_depths, self.config.matching)

        features = self.encoder(padded)
        quarter_size = features.quarter.shape[-2:]
        coarse = (
            geometry
            if stride == 4 and size == tuple(quarter_size)
            else sweep_geometry(
                context, near, far, self.config.num_neighbors, 4, (quarter_size[0], quarter_size[1]), weight.dtype
            )
        )
        correlation = correlation_volume(features.matching, coarse, self.config.num_depths)
        factor = 4 // stride
        coarse_logits = avg_pool2d(_pad_to(photometric, *(factor * s for s in quarter_size)), factor)
        coarse_cues = avg_pool2d(
            _pad_to(self._cues(photometric, geometry), *(factor * s for s in quarter_size)), factor
        )
        volume = torch.cat([0.2 * coarse_logits, 4 * correlation, features.quarter, coarse_cues], dim=1)
        decoded = self.volume_unet(volume)
        learned = self.volume_head(decoded) + 10 * self.correlation_gain * correlation
        learned = (
            interpolate(learned, scale_factor=factor, mode="bilinear", align_corners=False) if factor > 1 else learned
        )
        logits = photometric + learned[..., : size[0], : size[1]]

        cues = self._cues(logits, geometry)
        cues = interpolate(cues, scale_factor=stride, mode="bilinear", align_corners=False) if stride > 1 else cues
        cues = cues[..., :height, :width]
        per_pixel = self.decoder(decoded, features.half, padded, _pad_to(cues, padded.shape[-2], padded.shape[-1]))[
            ..., :height, :width
        ]
        corrections = Corrections.split(self.gaussian_head(per_pixel), self.sh_degree)
        gaussians = pixel_gaussians(
            context, near, far, cues[:, 0], self._opacity_logits(cues), self.config.footprint, corrections
        )
        per_cell = to_cells(per_pixel)
        corrections = Corrections.split(self.backdrop_head(per_cell), self.sh_degree)
        backdrop = backdrop_gaussians(context, near, far, corrections)
        unmatched = per_cell.new_zeros(len(per_cell), NUM_CUES, *per_cell.shape[2:])
        rows = [_rows(torch.cat(maps, dim=1)) for maps in ((per_pixel, cues), (per_cell, unmatched))]
        grid = (context.num_views, height, width)
        return Prediction(Gaussians.concatenate([gaussians, backdrop]), torch.cat(rows), grid)

    def _matching_stride(self, height: int, width: int) -> int:
        if self.config.matching_stride:
            return self.config.matching_stride
        return next((stride for stride in (1, 2) if max(height, width) <= 96 * stride), 4)

    def _cues(self, logits: Float[Tensor, "V D h w"], geometry: SweepGeometry) -> Float[Tensor, "V 4 h w"]:
        """Inverse depth (with gradient) and what speaks for it (without)."""
        fractions, confidence = expected_fraction(logits)
        with torch.no_grad():
            support, conflict = consistency(fractions, confidence, geometry, self.config.num_depths)
        return torch.stack([fractions, confidence.detach(), support, conflict], dim=1)

    def _opacity_logits(self, cues: Float[Tensor, "V 4 H W"]) -> Float[Tensor, "V H W"]:
        return torch.full_like(cues[:, 0], math.log(self.config.opacity / (1 - self.config.opacity)))


def correlation_volume(
    features: Float[Tensor, "V C h w"], geometry: SweepGeometry, num_depths: int
) -> Float[Tensor, "V D h w"]:
    """Mean over the other views of ⟨feature, warped feature⟩ at every depth candidate; 0 outside the other image.

    Gradients flow to the features.
    """
    height, width = geometry.size
    rows = []
    for view in range(geometry.num_views):
        positions, inside, _ = geometry.project(view, candidate_fractions(num_depths, features))
        others = features[geometry.neighbors[view]]
        count, channels = others.shape[:2]
        warped = grid_sample(
            others, positions.view(count, num_depths * height, width, 2), padding_mode="border", align_corners=False
        ).view(count, channels, num_depths, height, width)
        product = (warped * features[view][:, None]).sum(1) * inside
        rows.append(product.mean(0))
    return torch.stack(rows)


def _rows(maps: Float[Tensor, "V C H W"]) -> Float[Tensor, "V*H*W C"]:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _pad_to(x: Float[Tensor, "B C h w"], height: int, width: int) -> Float[Tensor, "B C H W"]:
    """Repeat the last row and column until the size is reached."""
    return pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")
