# SPDX-License-Identifier: Apache-2.0
"""Rotary positions in two dimensions: one half of a head's channels turns by the row, the other by the column."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BASE = 100.0


class RotaryAngles(NamedTuple):
    """Cosines and sines of the angles of every token, for all channels of a head."""

    cosines: Float[Tensor, "*batch N D"]
    sines: Float[Tensor, "*batch N D"]


def rotary_angles(positions: Int[Tensor, "N 2"], channels: int, dtype: torch.dtype) -> RotaryAngles:
    """Angles of tokens at (row, column) positions, for heads of `channels` (a multiple of 4)."""
    quarter = channels // 4
    exponents = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    frequencies = 1.0 / BASE**exponents
    angles = positions.float()[:, :, None] * frequencies  # [N, 2, D/4]
    angles = torch.cat([angles, angles], dim=-1).flatten(1)  # row: D/2, column: D/2
    return RotaryAngles(angles.cos().to(dtype), angles.sin().to(dtype))


def rotated(heads: Float[Tensor, "B heads N D"], angles: RotaryAngles) -> Float[Tensor, "B heads N D"]:
    """Queries or keys turned by the angles of their tokens."""
    first, second = heads.unflatten(-1, (2, 2, -1)).unbind(-2)  # [B, heads, N, 2, D/4] each
    turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return heads * angles.cosines + turned * angles.sines
