# SPDX-License-Identifier: Apache-2.0
"""Taking an image and its intrinsics to another size together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .intrinsics import Intrinsics


@dataclass(frozen=True)
class Resampling:
    """A box of the source image, in its pixels (may be fractional), that becomes a whole image of another size.

    Pixel (i, j) covers [j, j+1] × [i, i+1], so that its centre is at (j + 0.5, i + 0.5) in source and result alike, and
    intrinsics follow by one scale and one shift per axis.
    """

    left: float
    top: float
    box_width: float
    box_height: float
    width: int
    height: int

    @staticmethod
    def to_fill(source_size: tuple[int, int], size: tuple[int, int]) -> Resampling:
        """The largest centred box of the source with the aspect of `size`; both sizes are (height, width)."""
        (source_height, source_width), (height, width) = source_size, size
        scale = min(source_width / width, source_height / height)
        box_width, box_height = width * scale, height * scale
        left, top = (source_width - box_width) / 2, (source_height - box_height) / 2
        return Resampling(left, top, box_width, box_height, width, height)

    @staticmethod
    def to_fit(source_size: tuple[int, int], max_size: int) -> Resampling:
        """The whole source, its longer side at most `max_size`; never enlarged, at least one pixel."""
        height, width = source_size
        scale = min(1.0, max_size / max(height, width))
        return Resampling(0.0, 0.0, width, height, max(1, round(width * scale)), max(1, round(height * scale)))

    @property
    def scale(self) -> float:
        """Source pixels per result pixel, along the axis with fewer of them."""
        return min(self.box_width / self.width, self.box_height / self.height)

    def apply_to_image(
        self, image: Float[Tensor, "H W 3"], left: float = 0.0, top: float = 0.0, pixel: float = 1.0
    ) -> Float[Tensor, "h w 3"]:
        """Area average over the box: each result pixel is the mean of the source it covers, fractions included.

        `left`, `top` and `pixel` say where the first pixel of `image` begins in source coordinates and how wide its
        pixels are there, for an image that has been reduced already.
        """
        image = _average_rows(image, (self.top - top) / pixel, self.box_height / pixel, self.height)
        image = image.transpose(0, 1)
        image = _average_rows(image, (self.left - left) / pixel, self.box_width / pixel, self.width)
        return image.transpose(0, 1).contiguous()

    def apply_to_intrinsics(self, intrinsics: Intrinsics) -> Intrinsics:
        """Focal lengths and principal point of the result."""
        scale_x, scale_y = self.width / self.box_width, self.height / self.box_height
        return Intrinsics(
            fx=intrinsics.fx * scale_x,
            fy=intrinsics.fy * scale_y,
            cx=(intrinsics.cx - self.left) * scale_x,
            cy=(intrinsics.cy - self.top) * scale_y,
            width=self.width,
            height=self.height,
        )


def _average_rows(image: Float[Tensor, "H W 3"], start: float, extent: float, size: int) -> Float[Tensor, "size W 3"]:
    """Mean of the rows in each of `size` equal parts of [start, start + extent]; row i covers [i, i+1]. A part that
    lies outside the image by rounding takes the nearest row."""
    source = image.shape[0]
    if size == source == extent and start == 0:
        return image
    edges = (start + extent * torch.arange(size + 1, dtype=torch.float64) / size).clamp(0, source)
    first = edges[:-1].floor().clamp(max=source - 1)
    taps = int((edges[1:].ceil() - first).max().clamp(min=1))
    rows = first[:, None] + torch.arange(taps, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], rows + 1) - torch.maximum(edges[:-1, None], rows)
    overlap = overlap.clamp(min=0)
    total = overlap.sum(dim=1, keepdim=True)
    overlap[:, :1] += (total == 0).to(overlap)
    weights = (overlap / overlap.sum(dim=1, keepdim=True)).to(image)
    indices = rows.long().clamp(max=source - 1)
    result = weights[:, 0, None, None] * image[indices[:, 0]]
    for tap in range(1, taps):
        result = result.addcmul_(weights[:, tap, None, None], image[indices[:, tap]])
    return result
