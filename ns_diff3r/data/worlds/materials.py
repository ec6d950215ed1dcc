# SPDX-License-Identifier: Apache-2.0
"""Materials of generated scenes: a texture of the bank at a scale, an angle and colours of its own, and its gloss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .patterns import PATTERNS, color
from .textures import TextureBank

SHARPNESS = 0.7
"""Texel over pixel: bilinear interpolation blurs, an area average does not."""


@dataclass(frozen=True)
class Material:
    """A look.

    Attributes:
        texture: index in the bank.
        placement: [2, 3] surface coordinates in world units to repeats of the texture.
        mixture: [3, 3] from the texture's colour to the surface's.
        base: [3] added to it.
        specular: strength of highlights.
        shininess: Blinn-Phong exponent.
        emission: 1 for what shines by itself (the sky), 0 for what light falls on.
    """

    texture: int
    placement: Float[np.ndarray, "2 3"]
    mixture: Float[np.ndarray, "3 3"]
    base: Float[np.ndarray, " 3"]
    specular: float = 0.0
    shininess: float = 20.0
    emission: float = 0.0


class MaterialTable:
    """All materials of a scene as arrays."""

    def __init__(self, materials: list[Material], bank: TextureBank) -> None:
        self.bank = bank
        self.textures = torch.tensor([m.texture for m in materials])
        rows = [[*m.placement.ravel(), *m.mixture.ravel(), *m.base] for m in materials]
        rows = np.concatenate([rows, [[m.specular, m.shininess, m.emission] for m in materials]], axis=1)
        self.rows = torch.from_numpy(rows).float()

    def look(
        self, which: Int[Tensor, " n"], u: Float[Tensor, " n"], v: Float[Tensor, " n"], width: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"]]:
        """Albedo, and (specular, shininess, emission), at surface coordinates where a pixel is `width` wide."""
        row = self.rows[which].T  # [21, n]
        a, b = row[0] * u + row[1] * v + row[2], row[3] * u + row[4] * v + row[5]
        repeats = (row[0] ** 2 + row[1] ** 2).sqrt()
        texel = self.bank.lookup(self.textures[which], a, b, SHARPNESS * width * repeats)
        albedo = (row[6:15].view(3, 3, -1) * texel.T[None]).sum(1) + row[15:18]
        return albedo.clamp(0.01, 1.0), row[18:21]


def random_material(
    generator: np.random.Generator,
    bank: TextureBank,
    size: float,
    patterns: tuple[str, ...] | None = None,
    natural: bool = False,
) -> Material:
    """A random look for a surface of about `size` world units.

    Args:
        generator: of all choices.
        bank: where textures come from.
        size: of the surface; the texture repeats from a fifth of a time to ten times over it.
        patterns: names of the patterns to choose from; default: all.
        natural: keep the texture's own colours, apart from a small change.
    """
    names = list(PATTERNS)
    chosen = names if patterns is None else patterns
    pattern = names.index(str(generator.choice(chosen)))
    copies = (bank.count - pattern + len(names) - 1) // len(names)
    texture = pattern + len(names) * int(generator.integers(copies)) if copies else int(generator.integers(bank.count))
    mean = bank.mean(texture)
    # The texture's own colours, or its pattern in one colour, or in between.
    turn, strength = generator.uniform(0, 1), np.exp(generator.normal(0, 0.3))
    gray = np.ones((3, 3)) / 3
    saturation = generator.uniform(0.6, 1.2) if natural else generator.beta(1.2, 1.2) * 1.3
    mixture = strength * (saturation * np.eye(3) + (1 - saturation) * gray)
    if not natural and turn < 0.15:
        mixture = mixture @ np.eye(3)[generator.permutation(3)]
    target = mean * generator.uniform(0.8, 1.2) if natural else color(generator)
    if not natural and generator.random() < 0.4:
        target = 0.5 * (target + mean)
    scale = np.exp(generator.uniform(np.log(0.3), np.log(8))) / size
    angle = generator.choice([0, 0, 0, 0.5 * np.pi, generator.uniform(0, np.pi)])
    turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    placement = np.concatenate([turned, generator.uniform(0, 1, (2, 1))], axis=1)
    glossy = generator.random() < 0.35
    specular = generator.uniform(0.1, 0.8) if glossy else 0.0
    return Material(texture, placement, mixture, target - mixture @ mean, specular, np.exp(generator.uniform(1.5, 4.5)))
