# SPDX-License-Identifier: Apache-2.0
"""Rows of captioned images as one picture, some with a scale of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .prior_maps import coloured

if TYPE_CHECKING:
    from PIL import Image, ImageFont

GAP = 4
LINE = 15
"""Pixels of a line of text."""
BAR = 10
"""Pixels of a colour scale."""
FONT_SIZE = 11


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a picture.

    Attributes:
        image: in [0, 1].
        caption: one line below it; cut where it is wider than the image.
        scale: (smallest, largest) value of the colours of `prior_maps.coloured`, drawn below; None: no scale.
    """

    image: Float[Tensor, "H W 3"]
    caption: str = ""
    scale: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class PanelRow:
    """Images side by side, with a line of text above."""

    title: str
    panels: Sequence[Panel]


def save_picture_grid(path: Path, rows: Sequence[PanelRow], min_height: int = 128) -> None:
    """Draw rows of panels on white; images are enlarged in whole steps to at least `min_height` pixels.

    Args:
        path: file to write; its suffix chooses the format.
        rows: from top to bottom, at least one with a panel.
        min_height: of an image in the picture.
    """
    from PIL import Image

    strips = [_draw_row(row, min_height) for row in rows if row.panels]
    width, height = max(strip.width for strip in strips), sum(strip.height for strip in strips)
    picture = Image.new("RGB", (width, height), "white")
    top = 0
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    picture.save(path)


def _draw_row(row: PanelRow, min_height: int) -> Image.Image:
    from PIL import Image, ImageDraw

    images = [_pixels(panel.image, min_height) for panel in row.panels]
    bars = (BAR + LINE) if any(panel.scale for panel in row.panels) else 0
    height = LINE + max(image.height for image in images) + LINE + bars + GAP
    strip = Image.new("RGB", (sum(image.width + GAP for image in images) + GAP, height), "white")
    canvas, font = ImageDraw.Draw(strip), _font()
    canvas.text((GAP, 1), row.title, "black", font)
    left = GAP
    for panel, image in zip(row.panels, images, strict=True):
        strip.paste(image, (left, LINE))
        below = LINE + image.height
        canvas.text((left, below + 1), _cut(panel.caption, image.width, font), "black", font)
        if panel.scale is not None:
            _draw_scale(strip, (left, below + LINE), image.width, panel.scale, font)
        left += image.width + GAP
    return strip


def _draw_scale(
    strip: Image.Image,
    place: tuple[int, int],
    width: int,
    scale: tuple[float, float],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    from PIL import Image, ImageDraw

    (left, top), (low, high) = place, scale
    constant = high <= low * (1 + 1e-5)
    ramp = coloured(torch.full((width,), 0.5) if constant else torch.linspace(0, 1, width))
    strip.paste(Image.fromarray(_bytes(ramp.expand(BAR, width, 3))), (left, top))
    canvas, below = ImageDraw.Draw(strip), top + BAR + 1
    if constant:
        canvas.text((left, below), f"{low:.2g} everywhere", "black", font)
        return
    canvas.text((left, below), f"{low:.2g}", "black", font)
    middle, right = f"{(low * high) ** 0.5:.2g}", f"{high:.2g}"
    canvas.text((left + (width - canvas.textlength(middle, font)) // 2, below), middle, "black", font)
    canvas.text((left + width - canvas.textlength(right, font), below), right, "black", font)


def _cut(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _pixels(image: Float[Tensor, "H W 3"], min_height: int) -> Image.Image:
    from PIL import Image

    factor = max(1, -(-min_height // image.shape[0]))
    return Image.fromarray(_bytes(image.repeat_interleave(factor, 0).repeat_interleave(factor, 1)))


def _bytes(image: Float[Tensor, "H W 3"]) -> np.ndarray:
    return np.rint(image.detach().clamp(0, 1).cpu().numpy() * 255).astype(np.uint8)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font that Pillow brings."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(FONT_SIZE)
    except (TypeError, ImportError, OSError):  # before 10.1, or built without FreeType
        return ImageFont.load_default()
