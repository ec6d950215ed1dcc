# SPDX-License-Identifier: Apache-2.0
"""EXIF orientations: turning pixels, intrinsics and poses alike.

A camera held sideways stores its raster sideways and notes in EXIF how to turn it. Structure from motion mostly works
on the raster as stored, some programs on the upright image; only width and height beside the intrinsics tell which.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .intrinsics import Intrinsics


class Turn(NamedTuple):
    """What makes a stored raster upright: swap rows and columns first, then mirror."""

    transposed: bool
    flip_x: bool
    flip_y: bool

    @property
    def mirrors(self) -> bool:
        """Whether the result is a mirror image, which no pose of a camera can account for."""
        return self.transposed ^ self.flip_x ^ self.flip_y


TURNS = {
    1: Turn(False, False, False),
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
"""By the value of EXIF's tag Orientation."""


def turned_intrinsics(intrinsics: Intrinsics, orientation: int) -> Intrinsics:
    """Intrinsics of the image after it has been turned upright."""
    turn, k = TURNS[orientation], intrinsics
    if turn.transposed:
        k = Intrinsics(k.fy, k.fx, k.cy, k.cx, k.height, k.width)
    cx = k.width - k.cx if turn.flip_x else k.cx
    cy = k.height - k.cy if turn.flip_y else k.cy
    return Intrinsics(k.fx, k.fy, cx, cy, k.width, k.height)


def turned_pose(camera_to_world: Float[np.ndarray, "4 4"], orientation: int) -> Float[np.ndarray, "4 4"]:
    """Pose (OpenGL axes) of the camera of the upright image: the same camera, rolled about its axis.

    Raises:
        ValueError: an orientation that mirrors.
    """
    turn = TURNS[orientation]
    if turn.mirrors:
        raise ValueError(f"orientation {orientation} mirrors the image; there is no such camera")
    right, down = camera_to_world[:, 0], -camera_to_world[:, 1]
    if turn.transposed:
        right, down = down, right
    right, down = (-right if turn.flip_x else right), (-down if turn.flip_y else down)
    return np.stack([right, -down, camera_to_world[:, 2], camera_to_world[:, 3]], axis=1)
