# SPDX-License-Identifier: Apache-2.0
"""A photograph as the picture of a pinhole camera: its file, its camera, and how the one becomes the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import SceneError
from .images import WHITE, Raster, largest_reduction, read_image
from .intrinsics import Intrinsics
from .lenses import Lens
from .orientations import TURNS
from .resampling import Resampling


@dataclass(frozen=True)
class Development:
    """What is done to a stored raster, in this order.

    Attributes:
        before: EXIF orientation by which it is turned first, where its camera is that of the upright image.
        lens: undo this distortion, keeping focal lengths and principal point, and crop to `lens.pinhole_box`.
        after: EXIF orientation by which it is turned last, where its camera is that of the stored raster.
        background: RGB in [0, 1] behind an image with transparency.
    """

    before: int = 1
    lens: Lens | None = None
    after: int = 1
    background: tuple[float, float, float] = WHITE


@dataclass(frozen=True, eq=False)
class Frame:
    """One photograph as an upright, undistorted picture, and the camera of that picture.

    Attributes:
        image_path: the file.
        camera_to_world: OpenGL axes: x right, y up, z backward.
        intrinsics: of the picture at full size.
        development: how the file's raster becomes the picture; by default it is the picture.
    """

    image_path: Path
    camera_to_world: Float[np.ndarray, "4 4"]
    intrinsics: Intrinsics
    development: Development = Development()

    def image(self, resampling: Resampling) -> Float[Tensor, "h w 3"]:
        """A box of the picture at another size, float32 in [0, 1]; a file much larger than that is reduced on reading.

        Raises:
            ImageError: the file cannot be read.
            SceneError: its size is not that of its intrinsics.
        """
        todo = self.development
        reduction = largest_reduction(resampling.scale)
        raster = self.raster(reduction)
        raster = turned(raster, todo.before)
        lens = Intrinsics(0, 0, 0, 0, raster.width, raster.height) if todo.lens is None else todo.lens.intrinsics
        if (raster.width, raster.height) != (lens.width, lens.height):
            raise _size_error(self.image_path, raster, lens)
        if todo.lens is not None:
            raster = undistorted(raster, todo.lens)
        raster = turned(raster, todo.after)
        if (raster.width, raster.height) != (self.intrinsics.width, self.intrinsics.height):
            raise _size_error(self.image_path, raster, self.intrinsics)
        return resampling.apply_to_image(raster.pixels, raster.left, raster.top, raster.pixel).clamp_(0, 1)

    def raster(self, reduction: int) -> Raster:
        """The stored pixels, squares of so many (1, 2, 4 or 8) averaged; ImageError if they cannot be read."""
        return read_image(self.image_path, reduction=reduction, background=self.development.background)


def _size_error(path: Path, raster: Raster, intrinsics: Intrinsics) -> SceneError:
    return SceneError(
        f"{path}: the image is {raster.width}x{raster.height}, its intrinsics are for "
        f"{intrinsics.width}x{intrinsics.height} (fields w, h)"
    )


def turned(raster: Raster, orientation: int) -> Raster:
    """The raster turned (and mirrored) as an EXIF orientation says."""
    turn = TURNS[orientation]
    pixels, width, height, left, top = raster.pixels, raster.width, raster.height, raster.left, raster.top
    if turn.transposed:
        pixels, width, height, left, top = pixels.transpose(0, 1), height, width, top, left
    # A reduced raster may reach beyond the image on the right and below; mirrored, it begins before it.
    if turn.flip_x:
        pixels, left = pixels.flip(1), width - left - raster.pixel * pixels.shape[1]
    if turn.flip_y:
        pixels, top = pixels.flip(0), height - top - raster.pixel * pixels.shape[0]
    return Raster(pixels, width, height, left, top, raster.pixel)


def undistorted(raster: Raster, lens: Lens) -> Raster:
    """The pinhole image within `lens.pinhole_box`, bilinearly interpolated, with pixels as wide as those of the raster.

    Raises:
        SceneError: a distortion that cannot be undone.
    """
    left, top, right, bottom = lens.pinhole_box
    columns, rows = (-(-(high - low) // raster.pixel) for low, high in ((left, right), (top, bottom)))
    x = left + (torch.arange(int(columns), dtype=torch.float64) + 0.5) * raster.pixel
    y = top + (torch.arange(int(rows), dtype=torch.float64) + 0.5) * raster.pixel
    source = lens.source(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))
    height, width = raster.pixels.shape[:2]
    extent = source.new_tensor([width, height]) * raster.pixel
    # grid_sample without align_corners: -1 and 1 are the outer edges, so that pixel centres stay at one half.
    grid = 2 * (source - source.new_tensor([raster.left, raster.top])) / extent - 1
    image = raster.pixels.permute(2, 0, 1)[None]
    sampled = torch.nn.functional.grid_sample(
        image, grid[None].to(image), mode="bilinear", padding_mode="border", align_corners=False
    )
    return Raster(sampled[0].permute(1, 2, 0), right - left, bottom - top, pixel=raster.pixel)
