# SPDX-License-Identifier: Apache-2.0
"""Reading image files, and taking images and intrinsics to another size together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ImageError
from .intrinsics import Intrinsics

READABLE_MODES = ("RGB", "L", "P", "1", "CMYK", "YCbCr")
"""Pillow modes that turn into RGB without a decision about transparency or exposure."""


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file from its header. Raises ImageError naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ImageError(f"{path}: not a readable image ({error})") from error


def read_image(path: Path) -> Float[Tensor, "H W 3"]:
    """The pixels of an image file as float32 RGB in [0, 1].

    Raises:
        ImageError: missing, not an image, cut short, or of a kind that needs a decision (transparency, 16 bit).
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode not in READABLE_MODES or "transparency" in image.info:
                raise ImageError(
                    f"{path}: {image.mode} images are not read; convert it to 8-bit RGB without transparency"
                )
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNGs
        raise ImageError(f"{path}: not a readable image ({error})") from error
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


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

    def apply_to_image(self, image: Float[Tensor, "H W 3"]) -> Float[Tensor, "h w 3"]:
        """Area average over the box: each result pixel is the mean of the source it covers, fractions included."""
        source_height, source_width = image.shape[:2]
        if (self.height, self.width) == (source_height, source_width) == (self.box_height, self.box_width):
            return image
        rows = _coverage(source_height, self.top, self.box_height, self.height).to(image)
        columns = _coverage(source_width, self.left, self.box_width, self.width).to(image)
        return torch.einsum("iy,yxc,jx->ijc", rows, image, columns)

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


def _coverage(source: int, start: float, extent: float, size: int) -> Float[Tensor, "size source"]:
    """Share of each source pixel [j, j+1] in each of `size` equal parts of [start, start + extent]; rows sum to 1."""
    edges = start + extent * torch.arange(size + 1, dtype=torch.float64) / size
    pixels = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    overlap = overlap.clamp(min=0)
    return overlap / overlap.sum(dim=1, keepdim=True)
