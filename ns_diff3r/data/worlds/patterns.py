# SPDX-License-Identifier: Apache-2.0
"""Procedural patterns that repeat: each takes a generator and a side and gives [side, side, 3] about [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

Image = Float[np.ndarray, "n n 3"]
Map = Float[np.ndarray, "n n"]


def noise(generator: Generator, size: int, slope: float = 1.2, stretch: tuple[float, float] = (1, 1)) -> Map:
    """Random phases with amplitude 1/f^slope (natural pictures have about 1), mean 0.5, deviation 0.2; repeats."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size) * stretch[0], np.fft.rfftfreq(size) * stretch[1], indexing="ij")
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(generator.standard_normal((size, size), dtype=np.float32))
    field = np.fft.irfft2(white * frequency**-slope, s=(size, size))
    return 0.5 + 0.2 * (field - field.mean()) / max(field.std(), 1e-9)


def color(generator: Generator) -> Float[np.ndarray, " 3"]:
    """A random colour; muted ones are more frequent, as in the world."""
    value, saturation = generator.uniform(0.06, 0.98), generator.beta(1.2, 2.8)
    # Browns, then blues and greens, then anything.
    center, spread = ((0.5, 0.3), (3.6, 0.4), (1.7, 0.4), (0.0, 3.0))[generator.choice(4, p=(0.5, 0.17, 0.15, 0.18))]
    hue = generator.normal(center, spread)
    rgb = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation + saturation * rgb)


def ramp(values: Map, generator: Generator, count: int = 2) -> Image:
    """Colours for values in [0, 1], linear between `count` random ones."""
    table = np.stack([color(generator) for _ in range(count)])
    place = np.clip(values, 0, 1) * (count - 1)
    index = np.minimum(place.astype(int), count - 2)
    return table[index] + (place - index)[..., None] * (table[index + 1] - table[index])


def weathered(image: Image, generator: Generator, amount: float | None = None) -> Image:
    """Stains and grain over a pattern."""
    amount = generator.uniform(0.05, 0.5) if amount is None else amount
    size = image.shape[0]
    dirt = noise(generator, size, generator.uniform(1.0, 2.0)) - 0.5
    grain = noise(generator, size, generator.uniform(0.2, 0.8)) - 0.5
    return image * (1 + amount * dirt + 0.5 * amount * grain)[..., None]


def _grid(size: int) -> tuple[Map, Map]:
    axis = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(axis, axis, indexing="xy")
    return x, y


def _warped(generator: Generator, size: int, amount: float) -> tuple[Map, Map]:
    x, y = _grid(size)
    return x + amount * (noise(generator, size, 1.8) - 0.5), y + amount * (noise(generator, size, 1.8) - 0.5)


def clouds(generator: Generator, size: int) -> Image:
    """Noise over a few colours."""
    values = noise(generator, size, generator.uniform(0.7, 2.0))
    tint = noise(generator, size, generator.uniform(1.0, 2.0))[..., None] - 0.5
    return ramp(values, generator, int(generator.integers(2, 5))) + tint * generator.uniform(-0.4, 0.4, 3)


def grain(generator: Generator, size: int) -> Image:
    """Plaster, sand, asphalt: one colour with fine noise and some stains."""
    fine = noise(generator, size, generator.uniform(0.1, 0.9)) - 0.5
    return weathered(color(generator) * (1 + generator.uniform(0.3, 1.5) * fine[..., None]), generator)


def wood(generator: Generator, size: int) -> Image:
    """Fibres and rings along one axis, in boards."""
    x, y = _grid(size)
    boards = int(generator.integers(1, 7))
    board = np.floor(x * boards)
    shift = generator.uniform(0, 1, boards)[board.astype(int)]
    rolled = noise(generator, size, 1.1, (0.08, 1.0))
    rings = 0.5 + 0.5 * np.sin(
        2 * np.pi * (x * generator.integers(4, 20) + 3 * noise(generator, size, 1.8, (0.2, 1.0)))
    )
    tone = 0.55 * rolled + 0.3 * rings + 0.3 * (shift - 0.5)
    base = np.array([0.62, 0.42, 0.25]) * generator.uniform(0.4, 1.4) + generator.uniform(-0.08, 0.08, 3)
    image = base * (0.55 + 0.9 * tone[..., None])
    seam = ((x * boards) % 1 < 0.03 * boards / 2) | ((y + shift) % 1 < 0.008)
    return np.where((seam & (boards > 1))[..., None], 0.35 * image, image)


def stripes(generator: Generator, size: int) -> Image:
    """Bands of random widths, straight or wavy."""
    x, y = _warped(generator, size, generator.choice([0.0, 0.0, 0.15, 0.5]))
    count = int(generator.integers(3, 14))
    edges = np.sort(generator.uniform(0, 1, count))
    place = (x if generator.random() < 0.5 else x + y * int(generator.integers(1, 3))) % 1
    table = np.stack([color(generator) for _ in range(int(generator.integers(2, 5)))])
    return weathered(table[np.searchsorted(edges, place) % count % len(table)], generator)


def checks(generator: Generator, size: int) -> Image:
    """Chess boards, tartans."""
    x, y = _warped(generator, size, generator.choice([0.0, 0.0, 0.1]))
    nx, ny = (2 * generator.integers(1, 7, 2)).tolist()
    a, b = np.floor(x * nx) % 2, np.floor(y * ny) % 2
    if generator.random() < 0.5:
        return weathered(np.where((a != b)[..., None], color(generator), color(generator)), generator)
    image = 0.5 * (
        np.where(a[..., None] > 0, color(generator), color(generator))
        + np.where(b[..., None] > 0, color(generator), color(generator))
    )
    lines = ((x * nx * 2) % 1 < 0.12) | ((y * ny * 2) % 1 < 0.12)
    return weathered(np.where(lines[..., None], color(generator), image), generator)


def bricks(generator: Generator, size: int) -> Image:
    """Bricks or tiles with joints, each of its own tone."""
    x, y = _warped(generator, size, generator.choice([0.0, 0.01, 0.03]))
    nx, ny = int(generator.integers(2, 8)), 2 * int(generator.integers(1, 9))
    shift = generator.choice([0.0, 0.5, 0.5, 0.33])
    row = np.floor(y * ny)
    column = np.floor(x * nx + shift * (row % 2))
    tone = generator.uniform(-1, 1, (ny, nx))[row.astype(int) % ny, column.astype(int) % nx]
    tint = color(generator) - color(generator)
    image = color(generator) * (1 + 0.25 * tone[..., None]) + 0.2 * tone[..., None] * tint
    joint = generator.uniform(0.02, 0.12)
    gaps = ((x * nx + shift * (row % 2)) % 1 < joint) | ((y * ny) % 1 < joint * ny / nx)
    image = image * (0.75 + 0.5 * noise(generator, size, 0.9))[..., None]
    return weathered(np.where(gaps[..., None], color(generator), image), generator)


def cells(generator: Generator, size: int) -> Image:
    """Pebbles, scales, cracked earth: cells of random points, darker towards their rims."""
    side = int(generator.integers(4, 14))
    count = side * side
    jitter = generator.uniform(0, 1, (side, side, 2))
    x, y = _warped(generator, size, 0.05)
    column, row = np.floor(x * side).astype(int), np.floor(y * side).astype(int)
    best, second, which = np.full((size, size), 9.0), np.full((size, size), 9.0), np.zeros((size, size), int)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            cell = (row + i) % side, (column + j) % side
            dx, dy = column + j + jitter[(*cell, 0)] - x * side, row + i + jitter[(*cell, 1)] - y * side
            distance = np.sqrt(dx * dx + dy * dy)
            closer = distance < best
            second = np.where(closer, best, np.minimum(second, distance))
            which = np.where(closer, cell[0] * side + cell[1], which)
            best = np.where(closer, distance, best)
    rim = np.clip((second - best) * generator.uniform(2, 6), 0, 1)
    table = np.stack([color(generator) for _ in range(3)])[generator.integers(0, 3, count)]
    table = table * generator.uniform(0.7, 1.2, (count, 1))
    return weathered(table[which] * (0.25 + 0.75 * rim[..., None]), generator)


def dots(generator: Generator, size: int) -> Image:
    """A grid of dots or rings."""
    x, y = _grid(size)
    count = int(generator.integers(2, 10))
    a, b = (x * count) % 1 - 0.5, (y * count + generator.choice([0.0, 0.5]) * (np.floor(x * count) % 2)) % 1 - 0.5
    radius = np.hypot(a, b)
    edge = generator.uniform(0.15, 0.45)
    image = np.where((radius < edge)[..., None], color(generator), color(generator))
    if generator.random() < 0.5:
        image = np.where((radius < 0.5 * edge)[..., None], color(generator), image)
    return weathered(image, generator)


def _paste(image: Image, mask: Map, top: int, left: int, fill: np.ndarray, opacity: float = 1.0) -> None:
    """Blend `fill` ([3] or like the mask with 3) into the image where `mask`, wrapping around."""
    size = image.shape[0]
    rows = (top + np.arange(mask.shape[0])) % size
    columns = (left + np.arange(mask.shape[1])) % size
    weight = opacity * mask[..., None].astype(np.float64)
    region = np.ix_(rows, columns)
    image[region] += weight * (fill - image[region])


def dead_leaves(generator: Generator, size: int, count: int | None = None, palette: np.ndarray | None = None) -> Image:
    """Overlapping shapes of all sizes, as in pictures of the world, each with its own colour and shade."""
    count = int(generator.integers(150, 600)) if count is None else count
    palette = (
        np.stack([color(generator) for _ in range(int(generator.integers(3, 14)))]) if palette is None else palette
    )
    grain_map = noise(generator, size, generator.uniform(0.3, 1.4))
    image = palette[0] * (0.5 + grain_map[..., None])
    largest, smallest = generator.uniform(0.12, 0.3) * size, 3.0
    radii = 1 / (1 / smallest + generator.uniform(0, 1, count) * (1 / largest - 1 / smallest))  # density radius^-2
    boxy = generator.random()
    for radius in radii:
        half = int(np.ceil(radius))
        y, x = np.mgrid[-half : half + 1, -half : half + 1] / max(radius, 1e-6)
        angle, squeeze = generator.uniform(0, np.pi), generator.uniform(0.25, 1.0)
        a, b = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / squeeze
        mask = np.maximum(np.abs(a), np.abs(b)) < 0.7 if generator.random() < boxy else a * a + b * b < 1
        fill = palette[generator.integers(len(palette))] * generator.uniform(0.6, 1.25)
        shade = 1 + generator.uniform(-0.3, 0.3) * a + generator.uniform(-0.3, 0.3) * b
        top, left = generator.integers(0, size, 2)
        patch = grain_map[np.ix_((top + np.arange(len(mask))) % size, (left + np.arange(len(mask))) % size)]
        shade = shade * (1 + generator.uniform(0, 0.8) * (patch - 0.5))
        _paste(image, mask, int(top), int(left), fill * shade[..., None])
    return image


def foliage(generator: Generator, size: int) -> Image:
    """Leaves, grass, moss: dead leaves in greens and browns."""
    base = np.array([[0.16, 0.3, 0.08], [0.3, 0.42, 0.12], [0.09, 0.16, 0.05], [0.45, 0.4, 0.18], [0.3, 0.22, 0.12]])
    palette = base[generator.permutation(5)[: generator.integers(2, 5)]] * generator.uniform(0.6, 1.5)
    return dead_leaves(generator, size, int(generator.integers(400, 900)), palette + generator.uniform(-0.04, 0.04, 3))


def strokes(generator: Generator, size: int) -> Image:
    """Grass, fur, straw, scratches: many short lines about one direction."""
    image = clouds(generator, size)
    count, length = int(generator.integers(300, 900)), generator.uniform(0.03, 0.2) * size
    direction, spread = generator.uniform(0, np.pi), generator.uniform(0.05, 0.8)
    palette = np.stack([color(generator) for _ in range(4)])
    step = np.arange(int(length) + 2)
    for _ in range(count):
        angle, (x, y) = direction + spread * generator.standard_normal(), generator.uniform(0, size, 2)
        columns = (x + step * np.cos(angle)).astype(int) % size
        rows = (y + step * np.sin(angle)).astype(int) % size
        image[rows, columns] = palette[generator.integers(4)] * generator.uniform(0.6, 1.3)
    return image


def _writing(image: Image, generator: Generator, top: int, bottom: int, left: int, right: int) -> None:
    """Lines of glyph-like marks within a rectangle."""
    height = int(generator.integers(5, max(6, min(26, bottom - top))))
    ink = color(generator) * 0.7
    for row in range(top, bottom - height, int(height * generator.uniform(1.3, 1.9)) + 1):
        column = left
        while column < right - height:
            width = int(height * generator.uniform(0.4, 0.9)) + 1
            if generator.random() < 0.82:
                cells_x, cells_y = 3, 5
                glyph = generator.random((cells_y, cells_x)) < 0.5
                glyph[:, 0] |= generator.random() < 0.5
                mask = np.kron(glyph, np.ones((height // cells_y + 1, width // cells_x + 1)))[:height, :width]
                _paste(image, mask, row, column, ink)
            column += width + max(1, height // 6)


def text(generator: Generator, size: int) -> Image:
    """A printed page, a label, a sign."""
    image = np.ones((size, size, 3)) * color(generator)
    for _ in range(int(generator.integers(1, 5))):
        top, left = generator.integers(0, size // 2, 2)
        bottom, right = top + generator.integers(size // 6, size // 2), left + generator.integers(size // 4, size // 2)
        if generator.random() < 0.4:
            _paste(image, np.ones((bottom - top, right - left)), int(top), int(left), color(generator))
        _writing(image, generator, int(top), int(bottom), int(left), int(right))
    return weathered(image, generator, generator.uniform(0, 0.25))


def poster(generator: Generator, size: int) -> Image:
    """A picture of shapes with a few words."""
    image = dead_leaves(generator, size, int(generator.integers(8, 60)))
    if generator.random() < 0.7:
        top = int(generator.integers(0, size * 3 // 4))
        _writing(image, generator, top, top + size // 4, size // 16, size)
    return image


def windows(generator: Generator, size: int) -> Image:
    """A house front: rows of windows with frames, sills and what stands behind them."""
    wall = bricks(generator, size) if generator.random() < 0.4 else grain(generator, size)
    nx, ny = generator.integers(1, 6, 2).tolist()
    w, h = size // nx, size // ny
    inner_w, inner_h = int(w * generator.uniform(0.3, 0.75)), int(h * generator.uniform(0.4, 0.8))
    frame, glass, sill = color(generator), 0.25 * color(generator), color(generator)
    edge = max(1, min(inner_w, inner_h) // 12)
    for i in range(nx):
        for j in range(ny):
            top, left = j * h + (h - inner_h) // 2, i * w + (w - inner_w) // 2
            _paste(wall, np.ones((inner_h + 2 * edge, inner_w + 2 * edge)), top - edge, left - edge, frame)
            light = glass + generator.uniform(0, 0.5) * color(generator)
            shade = np.linspace(0.5, 1.5, inner_h)[:, None, None] * np.ones((1, inner_w, 1))
            _paste(wall, np.ones((inner_h, inner_w)), top, left, light * shade)
            _paste(wall, np.ones((inner_h, edge)), top, left + inner_w // 2, frame)
            _paste(wall, np.ones((2 * edge, inner_w + 4 * edge)), top + inner_h, left - 2 * edge, sill)
    return wall


def weave(generator: Generator, size: int) -> Image:
    """Cloth: crossing threads over a coarser pattern."""
    x, y = _grid(size)
    count = 2 * int(generator.integers(8, 40))
    a, b = np.abs(np.sin(np.pi * count * x)), np.abs(np.sin(np.pi * count * y))
    over = (np.floor(x * count) + np.floor(y * count)) % 2
    threads = np.where(over > 0, a, b)
    pattern = PATTERNS[str(generator.choice(["clouds", "stripes", "checks", "dots"]))](generator, size)
    return pattern * (0.55 + 0.45 * threads[..., None])


def plain(generator: Generator, size: int) -> Image:
    """Paint: one colour, hardly varied; matching has nothing to hold on to there, as on many walls."""
    return weathered(np.ones((size, size, 3)) * color(generator), generator, generator.uniform(0.02, 0.12))


PATTERNS: dict[str, Callable[[Generator, int], Image]] = {
    "dead_leaves": dead_leaves,
    "clouds": clouds,
    "grain": grain,
    "wood": wood,
    "stripes": stripes,
    "checks": checks,
    "bricks": bricks,
    "cells": cells,
    "dots": dots,
    "foliage": foliage,
    "strokes": strokes,
    "text": text,
    "poster": poster,
    "windows": windows,
    "weave": weave,
    "plain": plain,
}
"""Every pattern by name; texture i of a bank has pattern i modulo their number."""
