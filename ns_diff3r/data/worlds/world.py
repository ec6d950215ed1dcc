# SPDX-License-Identifier: Apache-2.0
"""A generated scene as solids, materials and lights, and putting one together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from .materials import Material, random_material
from .solids import Shape, Solid
from .textures import TextureBank


@dataclass(frozen=True)
class Light:
    """A lamp, or the sun when it is far away.

    Attributes:
        position: world.
        radius: of the lamp, which makes shadows soft.
        color: of its light.
        reach: distance at which it is half as bright; infinite for the sun.
    """

    position: Float[np.ndarray, " 3"]
    radius: float
    color: Float[np.ndarray, " 3"]
    reach: float


@dataclass
class World:
    """A scene under construction: builders add solids and materials. z is up, units are metres.

    Attributes:
        generator: of every choice.
        bank: of textures.
        solids: in no order.
        materials: that solids name by index.
        light: the one that throws shadows.
        ambient: light from above and from below.
        fog: colour and the distance at which it hides half; None without.
    """

    generator: np.random.Generator
    bank: TextureBank
    solids: list[Solid] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    light: Light = Light(np.array([2.0, -3.0, 5.0]), 0.3, np.ones(3), np.inf)
    ambient: tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]] = (np.full(3, 0.3), np.full(3, 0.2))
    fog: tuple[Float[np.ndarray, " 3"], float] | None = None

    def material(
        self,
        size: float,
        patterns: tuple[str, ...] | None = None,
        natural: bool = False,
        again: float = 0.25,
    ) -> int:
        """Index of a random material; with probability `again`, where any may do, one that the scene has already."""
        if patterns is None and len(self.materials) > 4 and self.generator.random() < again:
            return int(self.generator.integers(1, len(self.materials)))
        return self.keep(random_material(self.generator, self.bank, size, patterns, natural))

    def keep(self, material: Material) -> int:
        """Index of a material."""
        self.materials.append(material)
        return len(self.materials) - 1

    def add(
        self,
        shape: Shape,
        center: Float[np.ndarray, " 3"],
        half: Float[np.ndarray, " 3"] | list[float],
        materials: int | tuple[int, ...],
        rotation: Float[np.ndarray, "3 3"] | float = 0.0,
        inside: bool = False,
        shadow: bool = True,
    ) -> None:
        """Put a solid somewhere; a number as rotation turns it about z."""
        turn = rotation_about_z(rotation) if isinstance(rotation, (int, float)) else rotation
        faces = (materials,) * 6 if isinstance(materials, int) else materials
        solid = Solid(
            shape, np.asarray(center, float), turn, np.maximum(np.asarray(half, float), 1e-4), faces, inside, shadow
        )
        self.solids.append(solid)


def rotation_about_z(angle: float) -> Float[np.ndarray, "3 3"]:
    """A turn by `angle` radians, anticlockwise seen from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def random_rotation(generator: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A rotation of any kind, all equally likely."""
    q, r = np.linalg.qr(generator.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))
