# SPDX-License-Identifier: Apache-2.0
"""The resolutions that the compact backbone works at, and how views and maps go from one to another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from ..splats import Cameras, Views

NETWORK_STRIDE = 16
"""Images enter the network padded to a multiple of this: the U-Net's coarsest level."""
QUARTER = 4
"""The cost volume of learned features has 1/4 of the image resolution."""
MATCHING_SIDE = 96
"""Longest side of the photographs in photometric matching, where it is chosen automatically."""


@dataclass(frozen=True)
class Resolution:
    """Sizes (height, width) for images of one size.

    Padding repeats the last row and column, right and below, so that intrinsics stay as they are.
    """

    image: tuple[int, int]
    """The photographs."""
    matching_stride: int
    """Photographs are matched at 1/this of their resolution; 1, 2 or 4."""

    @staticmethod
    def of(height: int, width: int, matching_stride: int = 0) -> Resolution:
        """Choose the matching stride where it is 0: the finest with a longer side of at most MATCHING_SIDE, or 4."""
        finest = next((stride for stride in (1, 2) if max(height, width) <= MATCHING_SIDE * stride), QUARTER)
        return Resolution((height, width), matching_stride or finest)

    @property
    def padded(self) -> tuple[int, int]:
        """Images as the network takes them."""
        height, width = (math.ceil(side / NETWORK_STRIDE) * NETWORK_STRIDE for side in self.image)
        return height, width

    @property
    def quarter(self) -> tuple[int, int]:
        """The learned cost volume."""
        return self.padded[0] // QUARTER, self.padded[1] // QUARTER

    @property
    def matching(self) -> tuple[int, int]:
        """The photometric cost volume."""
        return math.ceil(self.image[0] / self.matching_stride), math.ceil(self.image[1] / self.matching_stride)

    def image_to_padded(self, maps: Float[Tensor, "V C H W"]) -> Float[Tensor, "V C Hp Wp"]:
        """Repeat the border."""
        return padded_to(maps, self.padded)

    def image_to_matching(self, maps: Float[Tensor, "V C H W"]) -> Float[Tensor, "V C h w"]:
        """Means over squares of pixels."""
        stride = self.matching_stride
        return maps if stride == 1 else avg_pool2d(padded_to(maps, tuple(stride * s for s in self.matching)), stride)

    def matching_to_quarter(self, maps: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C hq wq"]:
        """Means over squares of pixels of the matching resolution."""
        factor = QUARTER // self.matching_stride
        maps = padded_to(maps, tuple(factor * s for s in self.quarter))
        return maps if factor == 1 else avg_pool2d(maps, factor)

    def quarter_to_matching(self, maps: Float[Tensor, "V C hq wq"]) -> Float[Tensor, "V C h w"]:
        """Bilinear."""
        height, width = self.matching
        return enlarged(maps, QUARTER // self.matching_stride)[..., :height, :width]

    def matching_to_image(self, maps: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C H W"]:
        """Bilinear."""
        height, width = self.image
        return enlarged(maps, self.matching_stride)[..., :height, :width]


def reduced(views: Views, longest: int | None) -> Views:
    """The views with their longer side reduced to `longest` pixels; as they are if they are no larger, or for None."""
    width, height = views.cameras.width, views.cameras.height
    if longest is None or max(width, height) <= longest:
        return views
    new_width, new_height = (max(1, round(side * longest / max(width, height))) for side in (width, height))
    Ks = views.cameras.Ks.clone()
    Ks[:, 0] *= new_width / width
    Ks[:, 1] *= new_height / height
    images = interpolate(
        views.images.permute(0, 3, 1, 2), (new_height, new_width), mode="bilinear", align_corners=False, antialias=True
    )
    cameras = Cameras(views.cameras.viewmats, Ks, new_width, new_height)
    return replace(views, images=images.permute(0, 2, 3, 1).clamp(0, 1).contiguous(), cameras=cameras)


def enlarged(maps: Float[Tensor, "B C h w"], factor: int) -> Float[Tensor, "B C H W"]:
    """Bilinear enlargement by an integer; pixel centres at halves."""
    if factor == 1:
        return maps
    return interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def padded_to(maps: Float[Tensor, "B C h w"], size: tuple[int, ...]) -> Float[Tensor, "B C H W"]:
    """Repeat the last row and column until the size (height, width) is reached."""
    below, right = size[0] - maps.shape[-2], size[1] - maps.shape[-1]
    return pad(maps, (0, right, 0, below), mode="replicate") if below or right else maps
