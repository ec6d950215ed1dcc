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

from ..splats import Gaussians, Views
from ..splats.spherical_harmonics import MAX_SH_DEGREE
from .compact_backdrop import backdrop_gaussians, to_cells
from .compact_gaussians import Corrections, bounded, pixel_gaussians, sharpened
from .compact_geometry import SweepGeometry, check_context, sample, sweep_geometry
from .compact_matching import (
    MatchingConfig,
    candidate_fractions,
    consistency,
    expected_fraction,
    photometric_logits,
)
from .compact_networks import Decoder, FeatureEncoder, VolumeUNet, zero_initialized
from .compact_points import point_correction, point_evidence
from .compact_resolution import QUARTER, Resolution, reduced
from .protocol import Backbone, BackboneConfig, Prediction

MIN_SIZE = 8
"""Smallest side of an image, in pixels."""
NUM_CUES = 6
"""Maps of what matching knows: inverse depth, its confidence, and the four of `Consistency`."""
DRAWING_VARIANCE = 0.3
"""What drawing adds to the variance of every Gaussian, in squares of its pixels: less in larger pictures than in those
that the network sees, to which its sizes are made."""
SHARED, BLOCKING = 0.3, 1.0
"""By how much another view that shows the same surface, or whose sight is blocked, lowers the logit of an opacity."""
LOGIT_LIMIT = 10.0
"""Bound of what is learned about a candidate's logit; photometric ones range over 1/temperature. Without a bound one
bad step can decide for one depth everywhere, where no gradient leads back."""


@dataclass
class CompactConfig(BackboneConfig):
    """Settings of the compact backbone (about 2 million parameters by default)."""

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
    working_size: int | None = None
    """Longest side, in pixels, of the photographs as the network sees them; larger ones are reduced for it, so that it
    predicts a Gaussian for every pixel of the smaller ones, wide enough to leave no gaps in the larger. Test-time
    optimisation sees the photographs as they are. Default: the network does too."""
    matching_stride: int = 0
    """Photographs are matched at their resolution (1), 1/2 (2) or 1/4 (4); 0: the finest of these at which the longer
    side is at most 96 pixels (or 1/4)."""
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    """Photometric matching."""
    footprint: float = 0.3
    """Standard deviation of a Gaussian at initialisation, in pixels; drawing adds about half a pixel. Smaller ones are
    sharper at the resolution of the photographs, and leave gaps in larger pictures."""
    sharpening: float = 1.0
    """How much colours are sharpened at initialisation, against the blur that drawing adds; 0: the pixels' own."""
    opacity: float = 0.5
    """Opacity at initialisation of a Gaussian whose surface no other view shows; where others agree it is shared."""

    def __post_init__(self) -> None:
        if self.num_depths < 2:
            raise ValueError(f"CompactConfig.num_depths must be at least 2, not {self.num_depths}")
        if self.num_neighbors < 1:
            raise ValueError(f"CompactConfig.num_neighbors must be at least 1, not {self.num_neighbors}")
        if not 0 <= self.sh_degree <= MAX_SH_DEGREE:
            raise ValueError(f"CompactConfig.sh_degree must be 0 to {MAX_SH_DEGREE}, not {self.sh_degree}")
        if self.working_size is not None and self.working_size < MIN_SIZE:
            raise ValueError(f"CompactConfig.working_size must be at least {MIN_SIZE}, not {self.working_size}")
        if self.matching_stride not in (0, 1, 2, 4):
            raise ValueError(f"CompactConfig.matching_stride must be 0, 1, 2 or 4, not {self.matching_stride}")
        if not 0.0 < self.opacity < 1.0 or not self.footprint > 0.0:
            raise ValueError("CompactConfig: opacity must lie between 0 and 1, footprint must be positive")


def tiny_config(**changes: Any) -> CompactConfig:
    """Settings of a network of about 0.5 million parameters, for tests and short runs on a CPU."""
    return CompactConfig(**{"width": 16, "matching_channels": 8, "feature_channels": 16, **changes})


class CompactBackbone(Backbone):
    """See the module."""

    uses_points = True

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
        """One Gaussian per pixel of every context view (as the network sees it), and the backdrop.

        Raises:
            ValueError: fewer than two views, no near or far, images smaller than MIN_SIZE.
        """
        drawn_width = context.cameras.width
        context = reduced(context, self.config.working_size)
        near, far = check_context(context, MIN_SIZE)
        dtype = self.gaussian_head.weight.dtype
        images = context.images.to(dtype).permute(0, 3, 1, 2).clamp(0, 1).contiguous()
        at = Resolution.of(images.shape[2], images.shape[3], self.config.matching_stride)

        def geometry(stride: int, size: tuple[int, int]) -> SweepGeometry:
            return sweep_geometry(context, near, far, self.config.num_neighbors, stride, size, dtype)

        matching = geometry(at.matching_stride, at.matching)
        depths, rule = self.config.num_depths, self.config.matching
        known_points = None
        if context.points is not None:
            stride, size = at.matching_stride, at.matching
            known_points = point_evidence(context, near, far, depths, stride, size, rule.points_radius).to(dtype)
        photometric = photometric_logits(at.image_to_matching(images), matching, depths, rule, known_points)
        features = self.encoder(at.image_to_padded(images))
        correlation = correlation_volume(features.matching, geometry(QUARTER, at.quarter), self.config.num_depths)
        known = torch.cat([0.1 * photometric, self._cues(photometric, matching)], dim=1)
        volume = torch.cat([at.matching_to_quarter(known), QUARTER * correlation, features.quarter], dim=1)
        decoded = self.volume_unet(volume)
        learned = self.volume_head(decoded) + self.correlation_gain * correlation
        logits = photometric + bounded(at.quarter_to_matching(learned), LOGIT_LIMIT)

        cues = at.matching_to_image(self._cues(logits, matching))
        per_pixel = self.decoder(decoded, features.half, at.image_to_padded(images), at.image_to_padded(cues))
        per_pixel = per_pixel[..., : at.image[0], : at.image[1]]
        corrections = Corrections.split(self.gaussian_head(per_pixel), self.sh_degree)
        fractions = cues[:, 0]
        if context.points is not None:
            found = (fractions + corrections.fraction).detach()
            fractions = fractions + point_correction(context, near, far, found, depths)
        gaussians = pixel_gaussians(
            context.cameras,
            sharpened(images, self.config.sharpening),
            near,
            far,
            fractions,
            self._opacity_logits(cues),
            self.config.footprint,
            corrections,
            DRAWING_VARIANCE * (1.0 - (context.cameras.width / drawn_width) ** 2),
        )
        per_cell = to_cells(per_pixel)
        corrections = Corrections.split(self.backdrop_head(per_cell), self.sh_degree)
        backdrop = backdrop_gaussians(context.cameras, images, near, far, corrections)
        unmatched = per_cell.new_zeros(len(per_cell), NUM_CUES, *per_cell.shape[2:])
        rows = [_rows(torch.cat(maps, dim=1)) for maps in ((per_pixel, cues), (per_cell, unmatched))]
        return Prediction(Gaussians.concatenate([gaussians, backdrop]), torch.cat(rows), (context.num_views, *at.image))

    def _cues(self, logits: Float[Tensor, "V D h w"], geometry: SweepGeometry) -> Float[Tensor, "V 6 h w"]:
        """Inverse depth (with gradient) and what speaks for it (without)."""
        fractions, confidence = expected_fraction(logits)
        agreement = consistency(fractions.detach(), confidence.detach(), geometry, self.config.num_depths)
        return torch.stack([fractions, confidence.detach(), *agreement], dim=1)

    def _opacity_logits(self, cues: Float[Tensor, "V 6 H W"]) -> Float[Tensor, "V H W"]:
        """Views that show the same surface share its opacity; what blocks the sight of other views is fainter."""
        others = len(cues) - 1
        alone = math.log(self.config.opacity / (1 - self.config.opacity))
        return alone - others * (SHARED * cues[:, 2] + BLOCKING * cues[:, 3])


def correlation_volume(
    features: Float[Tensor, "V C h w"], geometry: SweepGeometry, num_depths: int
) -> Float[Tensor, "V D h w"]:
    """Mean over the other views of ⟨feature, warped feature⟩ at every depth candidate; 0 outside the other image.

    Gradients flow to the features.
    """
    candidates = candidate_fractions(num_depths, features)
    rows = []
    for view in range(geometry.num_views):
        positions, inside, _ = geometry.project(view, candidates)
        warped = sample(features[geometry.neighbors[view]], positions)
        rows.append(((warped * features[view][:, None]).sum(1) * inside).mean(0))
    return torch.stack(rows)


def _rows(maps: Float[Tensor, "V C H W"]) -> Float[Tensor, "V*H*W C"]:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
