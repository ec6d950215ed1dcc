# SPDX-License-Identifier: Apache-2.0
"""Points on the surfaces of a scene, as registration triangulates them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import require_finite, require_shape, require_tensors


@dataclass(frozen=True, eq=False)
class SparsePoints:
    """P points with their colours. Which views see them is not known.

    Attributes:
        positions: [P, 3] world units.
        colors: [P, 3] RGB in [0, 1].

    Raises:
        TypeError: not floating tensors of one dtype.
        ValueError: wrong shape, several devices, non-finite.
    """

    positions: Float[Tensor, "P 3"]
    colors: Float[Tensor, "P 3"]

    def __post_init__(self) -> None:
        tensors = {"positions": self.positions, "colors": self.colors}
        require_tensors("SparsePoints", tensors)
        for name, value in tensors.items():
            require_shape("SparsePoints", name, value, (self.positions.shape[0], 3))
            require_finite("SparsePoints", name, value)

    @property
    def num_points(self) -> int:
        """P."""
        return self.positions.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparsePoints:
        """Copy to a device and/or dtype."""
        return SparsePoints(*(t.to(device=device, dtype=dtype) for t in (self.positions, self.colors)))
