# SPDX-License-Identifier: Apache-2.0
"""DepthSplat as its checkpoints have it: the module whose state dict has the official keys and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..blocks.numerics import normalized
from .depth_predictor import DepthPredictor, SweptDepth
from .gaussians import NUM_CHANNELS
from .plane_sweep import other_views
from .upsampler import JoiningDecoder
from .wiring import Wiring

HIDDEN = 64
NUM_NEIGHBORS = 2
"""With more than three views, each is matched with this many."""


@dataclass(frozen=True, eq=False)
class DepthSplatOutput:
    """Maps of one scene.

    Attributes:
        swept: the depth branch.
        features: [V, F, H, W] of the decoder of Gaussians; their uncertainty is read here.
        raw: [V, 37, H, W] raw parameters, see `gaussians.pixel_gaussians`.
    """

    swept: SweptDepth
    features: Float[Tensor, "V F H W"]
    raw: Float[Tensor, "V 37 H W"]


class DepthSplatNetwork(nn.Module):
    """Images and cameras → depths and raw Gaussians of every pixel."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring
        self.depth_predictor = DepthPredictor(wiring)
        width, features = self.depth_predictor.pretrained.config.width, wiring.gaussian_features
        self.feature_upsampler = JoiningDecoder(wiring, width, features, with_depth=False)
        self.gaussian_regressor = nn.Sequential(
            nn.Conv2d(5 + features, HIDDEN, 3, padding=1), nn.GELU(), nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        )
        self.gaussian_head = nn.Sequential(
            nn.Conv2d(HIDDEN + 4 + features, NUM_CHANNELS, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            last := nn.Conv2d(NUM_CHANNELS, NUM_CHANNELS, 3, padding=1, padding_mode="replicate"),
        )
        assert last.bias is not None
        with torch.no_grad():
            for rows in (slice(3, 6), slice(10, None)):  # scales and harmonics begin where their activations put them
                last.weight[rows] = 0.0
                last.bias[rows] = 0.0

    def gaussian_head_parameters(self) -> Iterator[nn.Parameter]:
        """The paper's "Gaussian DPT head"."""
        parts = (self.feature_upsampler, self.gaussian_regressor, self.gaussian_head)
        return chain.from_iterable(part.parameters() for part in parts)

    def forward(
        self,
        images: Float[Tensor, "V 3 H W"],
        camera_to_world: Float[Tensor, "V 4 4"],
        Ks: Float[Tensor, "V 3 3"],
        near: Float[Tensor, " V"],
        far: Float[Tensor, " V"],
    ) -> DepthSplatOutput:
        """Predict one scene.

        Args:
            images: in [0, 1]; H and W are multiples of `wiring.stride`.
            camera_to_world: OpenCV.
            Ks: pixels.
            near, far: depth range, world units.

        Raises:
            ValueError: one view only, or a size that is no multiple.
        """
        height, width = images.shape[-2:]
        stride = self.wiring.stride
        if len(images) < 2:
            raise ValueError(f"DepthSplat needs at least two views, got {len(images)}")
        if height % stride or width % stride:
            raise ValueError(f"this DepthSplat needs multiples of {stride} pixels, got {width}x{height}")
        others = other_views(camera_to_world, NUM_NEIGHBORS)
        swept = self.depth_predictor(normalized(images), camera_to_world, Ks, near, far, others)
        features = self.feature_upsampler(swept.monocular, swept.named)
        match = interpolate(swept.match_probability[:, None], (height, width), mode="nearest")
        hidden = self.gaussian_regressor(torch.cat([images, swept.depth[:, None], match, features], dim=1))
        raw = self.gaussian_head(torch.cat([hidden, images, features, match], dim=1))
        return DepthSplatOutput(swept, features, raw)
