# SPDX-License-Identifier: Apache-2.0
"""Where people stand when they take photographs: arcs, hemispheres, grids, walks, flights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.random import Generator


@dataclass(frozen=True)
class Path:
    """Camera positions [V, 3], the points they look at [V, 3], and their field of view along the longer side."""

    eyes: Float[np.ndarray, "V 3"]
    targets: Float[np.ndarray, "V 3"]
    degrees: float

    def poses(self, generator: Generator) -> Float[np.ndarray, "V 4 4"]:
        """Camera to world, OpenGL axes; held slightly askew, as by hand."""
        roll = generator.normal(0, 0.03) + generator.normal(0, 0.02, len(self.eyes))
        poses = np.tile(np.eye(4), (len(self.eyes), 1, 1))
        for i, (eye, target) in enumerate(zip(self.eyes, self.targets, strict=True)):
            backward = eye - target
            backward = backward / np.linalg.norm(backward)
            up = np.array([0.0, 0.0, 1.0]) if abs(backward[2]) < 0.98 else np.array([0.0, 1.0, 0.0])
            right = np.cross(up, backward)
            right /= np.linalg.norm(right)
            up = np.cross(backward, right)
            c, s = np.cos(roll[i]), np.sin(roll[i])
            poses[i, :3, :3] = np.stack([c * right + s * up, c * up - s * right, backward], axis=1)
            poses[i, :3, 3] = eye
        return poses


def arc(generator: Generator, center: np.ndarray, radius: float, count: int, span: float, elevation: float) -> Path:
    """A sweep of `span` radians around a thing, the height wandering."""
    angles = generator.uniform(0, 2 * np.pi) + span * (np.arange(count) + generator.uniform(-0.3, 0.3, count)) / count
    heights = (
        elevation + generator.normal(0, 0.12, count) + 0.15 * (-1.0) ** np.arange(count) * generator.integers(0, 2)
    )
    heights = np.clip(heights, 0.03, 1.4)
    reach = radius * generator.uniform(0.9, 1.1, count)
    eyes = center + reach[:, None] * np.stack(
        [np.cos(angles) * np.cos(heights), np.sin(angles) * np.cos(heights), np.sin(heights)], axis=1
    )
    targets = center + generator.normal(0, 0.06, (count, 3)) * radius
    return Path(eyes, targets, float(generator.uniform(30, 65)))


def hemisphere(generator: Generator, center: np.ndarray, radius: float, count: int) -> Path:
    """All around and above a thing, in the order of a spiral."""
    return arc(generator, center, radius, count, 2 * np.pi, float(generator.uniform(0.2, 1.0)))


def grid(generator: Generator, eye: np.ndarray, target: np.ndarray, spread: float, count: int) -> Path:
    """Beside and above one another, looking ahead."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    columns = int(np.ceil(np.sqrt(count * generator.uniform(1, 3))))
    rows = -(-count // columns)
    place = np.stack(np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-0.5, 0.5, max(rows, 2))), -1).reshape(-1, 2)
    place = place[:count] + generator.uniform(-0.12, 0.12, (count, 2))
    eyes = eye + spread * (place[:, :1] * right + place[:, 1:] * up + generator.normal(0, 0.06, (count, 1)) * forward)
    converge = generator.uniform(0.0, 1.0)
    targets = (
        target + (1 - converge) * (eyes - eye) + generator.normal(0, 0.03, (count, 3)) * np.linalg.norm(target - eye)
    )
    return Path(eyes, targets, float(generator.uniform(45, 75)))


def walk(generator: Generator, start: np.ndarray, heading: float, length: float, count: int) -> Path:
    """Along a slightly bent line, looking somewhat to the side, turning slowly."""
    along = np.linspace(0, 1, count)
    bend = heading + generator.normal(0, 0.4) * along
    steps = length / count * np.stack([np.cos(bend), np.sin(bend), np.zeros(count)], axis=1)
    eyes = start + np.cumsum(steps, axis=0) + generator.normal(0, 0.02, (count, 3))
    look = heading + generator.uniform(-1.2, 1.2) + generator.normal(0, 0.35) * along + generator.normal(0, 0.03, count)
    tilt = generator.normal(-0.1, 0.1) + generator.normal(0, 0.03, count)
    targets = eyes + 3 * np.stack([np.cos(look), np.sin(look), tilt], axis=1)
    return Path(eyes, targets, float(generator.uniform(50, 90)))


def flight(generator: Generator, center: np.ndarray, height: float, area: float, count: int) -> Path:
    """Above the ground, looking down or nearly."""
    columns = int(np.ceil(np.sqrt(count)))
    index = np.arange(count)
    row, column = index // columns, index % columns
    column = np.where(row % 2 > 0, columns - 1 - column, column)
    place = (np.stack([column, row], 1) / max(columns - 1, 1) - 0.5 + generator.normal(0, 0.03, (count, 2))) * area
    eyes = center + np.concatenate([place, height * generator.uniform(0.95, 1.05, (count, 1))], axis=1)
    lean = generator.uniform(-0.5, 0.5, 2) * height * generator.integers(0, 2)
    targets = eyes * [1, 1, 0] + [*lean, 0] + generator.normal(0, 0.03, (count, 3)) * height
    return Path(eyes, targets, float(generator.uniform(45, 80)))
