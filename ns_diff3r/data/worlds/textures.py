# SPDX-License-Identifier: Apache-2.0
"""Textures of generated scenes: drawn on first use, kept as bytes with their mipmaps, looked up by footprint."""

from __future__ import annotations

import math
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .patterns import PATTERNS

SIZE = 256
"""Side of a texture in texels; it repeats."""
LEVELS = int(math.log2(SIZE)) + 1
OFFSETS = [sum((SIZE >> i) ** 2 for i in range(level)) for level in range(LEVELS + 1)]
"""Where each level begins among the texels of one texture, and their number."""


class TextureBank:
    """`count` textures, texture i a function of (seed, i) alone; about 0.25 MiB each once drawn.

    A scene takes textures of the bank at scales, angles and colours of its own, so that few textures give many looks.
    """

    def __init__(self, seed: int, count: int) -> None:
        if count < 1:
            raise ValueError(f"TextureBank: count must be at least 1, got {count}")
        self.seed, self.count = seed, count
        self._texels = torch.zeros(count, OFFSETS[-1], 3, dtype=torch.uint8)  # pages come to be when written to
        self._drawn = [False] * count
        self._lock = Lock()

    def require(self, index: int) -> None:
        """Draw texture `index` if it is not there yet."""
        with self._lock:
            if self._drawn[index]:
                return
            generator = np.random.default_rng([self.seed, 77, index])
            name = list(PATTERNS)[index % len(PATTERNS)]
            image = torch.from_numpy(np.clip(PATTERNS[name](generator, SIZE), 0, 1)).float().permute(2, 0, 1)[None]
            for level in range(LEVELS):
                flat = image[0].permute(1, 2, 0).reshape(-1, 3)
                self._texels[index, OFFSETS[level] : OFFSETS[level + 1]] = (flat * 255).round().byte()
                if level < LEVELS - 1:
                    image = torch.nn.functional.avg_pool2d(image, 2)
            self._drawn[index] = True

    def mean(self, index: int) -> Float[np.ndarray, " 3"]:
        """Mean colour of a texture, in [0, 1]."""
        self.require(index)
        return self._texels[index, -1].double().numpy() / 255

    def lookup(
        self,
        textures: Int[Tensor, " n"],
        u: Float[Tensor, " n"],
        v: Float[Tensor, " n"],
        footprint: Float[Tensor, " n"],
    ) -> Float[Tensor, "n 3"]:
        """Colours in [0, 1]: bilinear in the level whose texels are as wide as `footprint`.

        Args:
            textures: indices, all of which have been required.
            u: repeats of the texture along its rows.
            v: repeats of the texture along its columns.
            footprint: width of the pixel in repeats of the texture.
        """
        level = (footprint * SIZE).clamp(1, SIZE / 2).log2().round().long()
        width = SIZE >> level
        base = textures * OFFSETS[-1] + torch.tensor(OFFSETS)[level]
        x, y = ((c - c.floor()) * width - 0.5 for c in (u, v))
        x0, y0 = x.floor(), y.floor()
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        left, top = x0.long() % width, y0.long() % width
        right, bottom = (left + 1) % width, (top + 1) % width
        texels = self._texels.view(-1, 3)

        def at(row: Tensor, column: Tensor) -> Tensor:
            return texels.index_select(0, base + row * width + column).float()

        upper = torch.lerp(at(top, left), at(top, right), fx)
        return torch.lerp(upper, torch.lerp(at(bottom, left), at(bottom, right), fx), fy) / 255


@lru_cache(maxsize=2)
def texture_bank(seed: int, count: int) -> TextureBank:
    """The bank of a seed, shared by all scenes of this process."""
    return TextureBank(seed, count)
