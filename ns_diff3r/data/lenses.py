# SPDX-License-Identifier: Apache-2.0
"""OpenCV's lens distortion, and the pinhole image that a distorted photograph holds without a black border."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import SceneError
from .intrinsics import Intrinsics

BORDER_SAMPLES = 65
GRID_SAMPLES = 33
BORDER_TOLERANCE = 1e-3
"""How far, in pixels, a pinhole image may reach beyond the photograph; border pixels are repeated there."""
ABSURD = 1e6
MIN_SHARE = 0.5
"""Of each side of the photograph that must remain; less means coefficients that do not belong to this image."""


@dataclass(frozen=True)
class Distortion:
    """Coefficients of OpenCV's model with four radial terms, as nerfstudio writes them.

    With x, y = X/Z, Y/Z (y down) and r² = x² + y², the image is taken at
    x·(1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) + 2 p1 x y + p2 (r² + 2x²) and
    y·(1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) + p1 (r² + 2y²) + 2 p2 x y.
    """

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def is_zero(self) -> bool:
        """Whether this is a pinhole camera."""
        return not any(astuple(self))

    def __str__(self) -> str:
        values = zip(("k1", "k2", "k3", "k4", "p1", "p2"), astuple(self), strict=True)
        return ", ".join(f"{name} = {value:.6g}" for name, value in values if value)

    def distort(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Where the lens images a direction: (X/Z, Y/Z) → distorted coordinates of the same kind."""
        x, y = points.unbind(-1)
        square = x * x + y * y
        radial = 1 + square * (self.k1 + square * (self.k2 + square * (self.k3 + square * self.k4)))
        return torch.stack(
            [
                x * radial + 2 * self.p1 * x * y + self.p2 * (square + 2 * x * x),
                y * radial + self.p1 * (square + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            dim=-1,
        )

    def folds(self, points: Float[Tensor, "*n 2"]) -> bool:
        """Whether the model turns an image inside out at any of the points (its Jacobian's determinant is ≤ 0)."""
        x, y = points.unbind(-1)
        square = x * x + y * y
        radial = 1 + square * (self.k1 + square * (self.k2 + square * (self.k3 + square * self.k4)))
        slope = 2 * (self.k1 + square * (2 * self.k2 + square * (3 * self.k3 + square * 4 * self.k4)))
        xx = radial + x * x * slope + 2 * self.p1 * y + 6 * self.p2 * x
        yy = radial + y * y * slope + 6 * self.p1 * y + 2 * self.p2 * x
        xy = x * y * slope + 2 * self.p1 * x + 2 * self.p2 * y
        return bool((xx * yy - xy * xy <= 0).any() or (radial <= 0).any())


@dataclass(frozen=True)
class Lens:
    """A camera with distortion: pinhole intrinsics in pixels of the photograph, and coefficients."""

    intrinsics: Intrinsics
    distortion: Distortion

    def source(self, pixels: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Pixel of the photograph that a pixel of the pinhole image of equal intrinsics shows."""
        k = self.intrinsics
        focal, center = pixels.new_tensor([k.fx, k.fy]), pixels.new_tensor([k.cx, k.cy])
        return self.distortion.distort((pixels - center) / focal) * focal + center

    @property
    def pinhole_box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), pixels: the part of the pinhole image of equal intrinsics and size that the
        photograph covers. A barrel distortion covers all of it, a pincushion distortion leaves out a border.

        Raises:
            SceneError: less than half of a side is left, or the coefficients turn the image inside out.
        """
        return _pinhole_box(self)


@lru_cache(maxsize=1024)
def _pinhole_box(lens: Lens) -> tuple[int, int, int, int]:
    width, height = lens.intrinsics.width, lens.intrinsics.height
    box = [0, 0, width, height]
    while any(steps := _overshoot(lens, box)):
        box = [box[0] + steps[0], box[1] + steps[1], box[2] - steps[2], box[3] - steps[3]]
        if box[2] - box[0] < MIN_SHARE * width or box[3] - box[1] < MIN_SHARE * height:
            raise SceneError(f"distortion {lens.distortion} leaves less than half of a {width}x{height} image")
    # All sides moved at once, so one may have moved on account of a corner that another has cut off since.
    for side, (outward, limit) in enumerate(((-1, 0), (-1, 0), (1, width), (1, height))):
        while box[side] != limit:
            wider = [*box[:side], box[side] + outward, *box[side + 1 :]]
            if any(_overshoot(lens, wider)):
                break
            box = wider
    x = torch.linspace(box[0], box[2], GRID_SAMPLES, dtype=torch.float64)
    y = torch.linspace(box[1], box[3], GRID_SAMPLES, dtype=torch.float64)
    k = lens.intrinsics
    grid = torch.stack(torch.meshgrid((x - k.cx) / k.fx, (y - k.cy) / k.fy, indexing="xy"), dim=-1)
    if lens.distortion.folds(grid):
        raise SceneError(f"distortion {lens.distortion} cannot be undone inside a {width}x{height} image")
    return box[0], box[1], box[2], box[3]


def _overshoot(lens: Lens, box: list[int]) -> list[int]:
    """By how many pixels, rounded up, a box of the pinhole image reaches beyond each side of the photograph."""
    source = lens.source(_border(*box))
    size = source.new_tensor([lens.intrinsics.width, lens.intrinsics.height])
    over = torch.cat([-source.amin(dim=0), source.amax(dim=0) - size]).nan_to_num(nan=ABSURD).clamp(max=ABSURD)
    return [max(0, math.ceil(value - BORDER_TOLERANCE)) for value in over.tolist()]


def _border(left: int, top: int, right: int, bottom: int) -> Float[Tensor, "n 2"]:
    """Points on the border of a box."""
    x = torch.linspace(left, right, BORDER_SAMPLES, dtype=torch.float64)
    y = torch.linspace(top, bottom, BORDER_SAMPLES, dtype=torch.float64)
    sides = [torch.stack([x, torch.full_like(x, edge)], dim=-1) for edge in (top, bottom)]
    sides += [torch.stack([torch.full_like(y, edge), y], dim=-1) for edge in (left, right)]
    return torch.cat(sides)
