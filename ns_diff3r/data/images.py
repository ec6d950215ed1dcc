# SPDX-License-Identifier: Apache-2.0
"""Image files: what their headers say, whether they are whole, and their pixels, large ones reduced while reading."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ImageError
from .orientations import TURNS

if TYPE_CHECKING:
    from PIL import Image

OPAQUE_MODES = ("RGB", "L", "P", "1", "CMYK", "YCbCr")
"""Pillow modes that turn into RGB without a decision."""
TRANSPARENT_MODES = ("RGBA", "LA", "PA")
"""Pillow modes whose images are laid over a background."""
WHITE = (1.0, 1.0, 1.0)
ORIENTATION_TAG = 0x0112
MAX_REDUCTION = 8
JPEG_END, JPEG_TAIL = b"\xff\xd9", 64


@dataclass(frozen=True)
class ImageHeader:
    """Size of the raster as stored, and the EXIF orientation that makes it upright (1: it is)."""

    width: int
    height: int
    orientation: int = 1


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file whose mode is one that is read; everything that can be wrong becomes an ImageError naming it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.mode not in (*OPAQUE_MODES, *TRANSPARENT_MODES):
                raise ImageError(f"{path}: {image.mode} images are not read; convert it to 8-bit RGB")
            yield image
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not a readable image (of a kind that Pillow does not know, or damaged)") from None
    # Pillow raises SyntaxError for broken PNGs, ValueError and EOFError for some other broken files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: not a readable image ({error})") from error


def inspect_image(path: Path) -> ImageHeader:
    """Read the header of an image file and check that the file is whole, decoding it only where there is no other way.

    Raises:
        ImageError: missing, not an image, cut short, or of a kind that is not read (16 bit, floating point).
    """
    with _opened(path) as image:
        orientation = 1
        if image.format != "PNG" or "exif" in image.info:  # Pillow decodes a PNG to look for EXIF behind its pixels
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
        header = ImageHeader(*image.size, orientation if orientation in TURNS else 1)
        if image.format == "PNG":
            image.verify()  # check sums, without decoding
        elif image.format not in ("JPEG", "MPO") or not _ends_as_jpeg(path):
            image.draft("RGB", (1, 1))
            image.load()
    return header


def _ends_as_jpeg(path: Path) -> bool:
    """Whether the end marker is where it belongs; cameras that append data to a JPEG file have it elsewhere."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - JPEG_TAIL))
        return JPEG_END in file.read()


@dataclass(frozen=True, eq=False)
class Raster:
    """Pixels of an image of `width` × `height`, of which each may stand for a square of several.

    Pixel (i, j) covers [left + j·pixel, left + (j+1)·pixel] × [top + i·pixel, …] in coordinates of the full image.
    """

    pixels: Float[Tensor, "H W 3"]
    width: int
    height: int
    left: float = 0.0
    top: float = 0.0
    pixel: float = 1.0


def size_of_image(path: Path, content: bytes) -> tuple[int, int]:
    """(width, height) of an image file that is in memory; `path` names it. ImageError if it is none."""
    with _opened(path, content) as image:
        return image.size


def read_image(
    path: Path,
    *,
    reduction: int = 1,
    background: tuple[float, float, float] = WHITE,
    content: bytes | None = None,
) -> Raster:
    """The pixels of an image file as stored (not turned), float32 RGB in [0, 1].

    Args:
        path: of the file.
        reduction: average squares of so many pixels (1, 2, 4 or 8) while reading; JPEG files are decoded at that size.
        background: RGB in [0, 1] behind images with transparency.
        content: the bytes of the file, where it is in memory; `path` then only names it.

    Raises:
        ImageError: missing, not an image, cut short, or of a kind that is not read (16 bit, floating point).
    """
    with _opened(path, content) as image:
        width, height = image.size
        transparent = image.mode in TRANSPARENT_MODES or "transparency" in image.info
        done = 1
        if reduction > 1 and not transparent:
            image.draft("RGB", (width // reduction, height // reduction))
            # Pillow rounds the size up, and may stop at a coarser step than asked for but never beyond it.
            done = next(s for s in (1, 2, 4, MAX_REDUCTION) if -(-width // s) == image.size[0])
        pixels = image.convert("RGBA" if transparent else "RGB")
        if done < reduction:
            pixels = pixels.reduce(reduction // done)
    array = torch.from_numpy(np.asarray(pixels).astype(np.float32) / np.float32(255))
    if transparent:
        color, alpha = array[..., :3], array[..., 3:]
        array = color * alpha + color.new_tensor(background) * (1 - alpha)
    return Raster(array, width, height, pixel=float(reduction))


def largest_reduction(scale: float) -> int:
    """The largest reduction after which an image that is to shrink by `scale` still has twice the pixels per axis that
    it will have; they are then averaged exactly."""
    reduction = 1
    while reduction < MAX_REDUCTION and 4 * reduction <= scale:
        reduction *= 2
    return reduction
