# SPDX-License-Identifier: Apache-2.0
"""Kinds of places: each fills a world and says where it is photographed from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import objects, paths
from .materials import Material
from .patterns import PATTERNS
from .solids import Shape
from .world import Light, World, random_rotation

UP = np.array([0.0, 0.0, 1.0])
FLOORS = ("wood", "checks", "bricks", "grain", "weave", "clouds", "cells", "dead_leaves", "stripes")
GROUNDS = ("foliage", "grain", "bricks", "cells", "strokes", "dead_leaves", "clouds")


def _near(generator: np.random.Generator, low: float, high: float) -> float:
    """Between the bounds, uniform in the logarithm."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def room(world: World, views: int) -> paths.Path:
    """Four walls with pictures, a floor, furniture; photographed from inside."""
    g = world.generator
    half = np.array([*g.uniform(1.5, 3.5, 2), g.uniform(1.15, 1.6)])
    walls = [world.material(3.0, again=0) for _ in range(2)]
    walls = [walls[int(g.random() < 0.3)] for _ in range(4)]
    faces = (*walls, world.material(2.5, FLOORS), world.material(3.0, ("plain", "grain", "clouds")))
    world.add(Shape.BOX, half * [0, 0, 1], half, faces, inside=True)
    for _ in range(int(g.integers(1, 7))):  # pictures, doors, windows
        axis, side = int(g.integers(2)), g.choice([-1, 1])
        size = np.array([0.02, g.uniform(0.15, 0.7), g.uniform(0.15, 0.6)])
        place = np.array([side * half[0], g.uniform(-0.8, 0.8) * half[1], g.uniform(0.7, 1.7)])
        if axis:
            size, place = size[[1, 0, 2]], np.array([g.uniform(-0.8, 0.8) * half[0], side * half[1], place[2]])
        frame, picture = (
            world.material(0.5),
            world.material(1.2, ("poster", "windows", "dead_leaves", "text", "clouds")),
        )
        world.add(Shape.BOX, place, size + 0.03, frame, shadow=False)
        inner = size + np.where(np.arange(3) == axis, 0.035, 0.0)
        world.add(Shape.BOX, place, inner, picture, shadow=False)
    if g.random() < 0.5:
        rug = np.array([*g.uniform(0.5, 1.2, 2), 0.01])
        world.add(
            Shape.BOX,
            np.array([*g.uniform(-0.4, 0.4, 2), 0.01]),
            rug,
            world.material(1.5),
            g.uniform(0, 3),
            shadow=False,
        )
    for _ in range(int(g.integers(6, 15))):
        place = np.array([*(g.uniform(-0.85, 0.85, 2) * half[:2]), 0.0])
        objects.FURNITURE[int(g.integers(len(objects.FURNITURE)))](world, place, _near(g, 0.5, 1.5))
    tint = np.array([1.0, g.uniform(0.85, 1.0), g.uniform(0.65, 1.0)])
    world.light = Light(
        np.array([*(g.uniform(-0.6, 0.6, 2) * half[:2]), 1.9 * half[2]]), g.uniform(0.1, 0.5), tint, g.uniform(1.5, 5)
    )
    level = g.uniform(0.15, 0.6)
    world.ambient = (level * np.ones(3), 0.75 * level * np.array([1.0, 0.95, 0.88]))
    style, middle = g.random(), np.array([0, 0, g.uniform(0.6, 1.1)])
    corner = np.array([*(g.uniform(0.3, 0.8, 2) * half[:2] * g.choice([-1, 1], 2)), g.uniform(1.0, 1.7)])
    if style < 0.4:
        path = paths.grid(g, corner, middle, _near(g, 0.08, 0.6), views)
    elif style < 0.7:
        heading = float(np.arctan2(*(middle - corner)[1::-1]))
        path = paths.walk(g, corner, heading, g.uniform(0.6, 2.0), views)
    else:
        path = paths.arc(g, middle, 0.75 * half[:2].min(), views, g.uniform(0.4, 3), g.uniform(0.1, 0.6))
    return paths.Path(
        np.clip(path.eyes, [-0.93, -0.93, 0.05] * half, [0.93, 0.93, 1.9] * half), path.targets, path.degrees
    )


def _surroundings(world: World, far: float) -> None:
    """Something behind: a hall or an environment at a distance, and light to go with it."""
    g = world.generator
    if g.random() < 0.5:
        half = far * np.array([*g.uniform(0.8, 1.5, 2), 0.6])
        faces = tuple(world.material(far) for _ in range(6))
        world.add(Shape.BOX, half * [0, 0, 0.5], half, faces, g.uniform(0, 3), inside=True)
    else:
        names = list(PATTERNS)
        material = world.materials[world.material(1.5 * far, tuple(names[:6]), again=0)]
        shining = Material(material.texture, material.placement, 0.6 * material.mixture, material.base, emission=1.0)
        world.add(Shape.BALL, np.zeros(3), far * np.ones(3), world.keep(shining), inside=True)
    direction = np.array([*g.normal(0, 1, 2), g.uniform(0.6, 2.0)])
    tint = np.array([1.0, g.uniform(0.88, 1.0), g.uniform(0.75, 1.0)])
    world.light = Light(3 * far * direction / np.linalg.norm(direction), far * g.uniform(0.02, 0.25), tint, np.inf)
    level = g.uniform(0.2, 0.7)
    world.ambient = (level * np.ones(3), level * g.uniform(0.4, 0.9) * np.array([1.0, 0.95, 0.9]))


def tabletop(world: World, views: int) -> paths.Path:
    """A few things on a table or the floor, photographed from around; half a metre, as it were."""
    g = world.generator
    top = world.material(1.0, again=0)
    if g.random() < 0.6:
        half = np.array([g.uniform(0.6, 1.2), g.uniform(0.5, 1.0), 0.03])
        shape = Shape.BOX if g.random() < 0.7 else Shape.CYLINDER
        world.add(shape, -half * UP, half, top, g.uniform(0, 3))
        if g.random() < 0.7:
            world.add(Shape.PLANE, np.array([0, 0, -0.7]), np.ones(3), world.material(2.0, FLOORS))
    else:
        world.add(Shape.PLANE, np.zeros(3), np.ones(3), top)
    _surroundings(world, g.uniform(2.5, 8))
    if g.random() < 0.6:
        objects.FURNITURE[int(g.integers(len(objects.FURNITURE)))](world, np.zeros(3), g.uniform(0.3, 0.6))
    for _ in range(int(g.integers(3, 13))):
        place = np.array([*g.normal(0, 0.28, 2), 0.0])
        objects.SMALL[int(g.integers(len(objects.SMALL)))](world, place, _near(g, 0.08, 0.4))
    center, radius = np.array([0, 0, g.uniform(0.05, 0.2)]), g.uniform(0.9, 1.8)
    if g.random() < 0.35:
        return paths.hemisphere(g, center, radius, views)
    return paths.arc(g, center, radius, views, g.uniform(0.4, 3.0), g.uniform(0.15, 1.0))


def _sky(world: World, far: float) -> None:
    """Sky with clouds, the sun, and haze."""
    g = world.generator
    blue = np.array([g.uniform(0.35, 0.8), g.uniform(0.55, 0.85), g.uniform(0.75, 1.0)]) * g.uniform(0.6, 1.1)
    cloud = world.materials[world.material(1.3 * far, ("clouds",), again=0)]
    mixture = np.ones((3, 3)) / 3 * g.uniform(0, 0.8)
    base = blue - mixture @ world.bank.mean(cloud.texture)
    world.add(
        Shape.BALL,
        np.zeros(3),
        far * np.ones(3),
        world.keep(Material(cloud.texture, cloud.placement, mixture, base, emission=1.0)),
        inside=True,
    )
    direction = np.array([*g.normal(0, 1, 2), g.uniform(0.3, 2.0)])
    sunny = g.random() < 0.65
    tint = np.array([1.0, 0.95, g.uniform(0.7, 0.95)]) * (g.uniform(0.8, 1.5) if sunny else g.uniform(0.1, 0.4))
    world.light = Light(10 * far * direction / np.linalg.norm(direction), far * (0.1 if sunny else 2.0), tint, np.inf)
    world.ambient = (g.uniform(0.3, 0.6) * (0.5 + 0.5 * blue), g.uniform(0.15, 0.3) * np.array([1.0, 0.95, 0.85]))
    if g.random() < 0.6:
        world.fog = (np.clip(0.3 + 0.7 * blue, 0, 1), far * _near(g, 0.3, 5))


def outdoors(world: World, views: int) -> paths.Path:
    """Ground to the horizon, things near, trees and houses far."""
    g = world.generator
    far = g.uniform(40, 120)
    world.add(Shape.PLANE, np.zeros(3), np.ones(3), world.material(4.0, GROUNDS, natural=True))
    _sky(world, far)
    if g.random() < 0.5:  # a path
        world.add(
            Shape.BOX,
            np.zeros(3),
            np.array([60.0, g.uniform(0.5, 2), 0.01]),
            world.material(2.0, GROUNDS),
            g.uniform(0, 3),
            shadow=False,
        )
    for _ in range(int(g.integers(5, 15))):
        place = np.array([*g.normal(0, 2.0, 2), 0.0])
        objects.OUTDOORS[int(g.integers(len(objects.OUTDOORS)))](world, place, _near(g, 0.6, 3.5))
    for _ in range(int(g.integers(4, 14))):
        angle, distance = g.uniform(0, 2 * np.pi), g.uniform(8, 0.7 * far)
        place = distance * np.array([np.cos(angle), np.sin(angle), 0])
        build = objects.tree if g.random() < 0.5 else objects.house
        build(world, place, _near(g, 3, 10))
    center, radius = np.array([0, 0, g.uniform(0.4, 1.2)]), g.uniform(3, 8)
    style = g.random()
    if style < 0.5:
        return paths.arc(g, center, radius, views, g.uniform(0.3, 2.5), g.uniform(0.05, 0.4))
    start = np.array([*(radius * np.array([1.0, g.uniform(-0.3, 0.3)])), g.uniform(0.8, 1.9)])
    if style < 0.75:
        return paths.grid(g, start, center, _near(g, 0.15, 1.5), views)
    return paths.walk(g, start, np.pi + g.uniform(-1, 1), g.uniform(1, 4), views)


def facade(world: World, views: int) -> paths.Path:
    """A wall with what stands out of it and before it, photographed from the front."""
    g = world.generator
    far, size = g.uniform(30, 80), g.uniform(3, 9)
    world.add(Shape.PLANE, np.zeros(3), np.ones(3), world.material(4.0, GROUNDS))
    _sky(world, far)
    wall = world.material(size, ("windows", "bricks", "grain", "cells", "dead_leaves"))
    height = size * g.uniform(0.6, 1.5)
    world.add(Shape.BOX, np.array([0, 1.0, height]), np.array([1.6 * size, 1.0, height]), wall)
    if g.random() < 0.7:  # rows of windows
        columns, rows = int(g.integers(2, 6)), int(g.integers(1, 4))
        frame, pane = (
            world.material(0.3 * size),
            world.material(0.4 * size, ("windows", "plain", "clouds", "dead_leaves")),
        )
        half = np.array([0.3 / columns, g.uniform(0.01, 0.03), g.uniform(0.2, 0.4) / rows]) * size
        for i in range(columns * rows):
            place = np.array([(i % columns + 0.5) / columns * 2 - 1, 0, (i // columns + 0.5) / rows]) * size
            world.add(Shape.BOX, place, half, frame, shadow=False)
            world.add(Shape.BOX, place, half * [0.8, 1.2, 0.85], pane, shadow=False)
    for _ in range(int(g.integers(5, 16))):  # ledges, niches, doors, ornaments
        half = size * np.array([g.uniform(0.03, 0.25), g.uniform(0.01, 0.08), g.uniform(0.03, 0.3)])
        place = np.array([g.uniform(-1, 1) * size, 0.0, g.uniform(0, 1.2) * size])
        shape = Shape.BOX if g.random() < 0.65 else Shape(int(g.integers(0, 3, endpoint=False)))
        world.add(shape, place, half, world.material(0.5 * size), shadow=True)
    for _ in range(int(g.integers(2, 9))):
        place = np.array([g.uniform(-0.8, 0.8) * size, -g.uniform(0.05, 0.4) * size, 0.0])
        objects.OUTDOORS[int(g.integers(len(objects.OUTDOORS)))](world, place, _near(g, 0.15, 0.5) * size)
    center = np.array([g.uniform(-0.2, 0.2) * size, 0, g.uniform(0.2, 0.5) * size])
    eye = np.array([g.uniform(-0.3, 0.3) * size, -size * g.uniform(0.8, 1.6), g.uniform(0.15, 0.4) * size])
    return paths.grid(g, eye, center, size * _near(g, 0.1, 0.8), views)


def aerial(world: World, views: int) -> paths.Path:
    """Roofs, trees and fields from above."""
    g = world.generator
    world.add(Shape.PLANE, np.zeros(3), np.ones(3), world.material(15.0, GROUNDS, natural=True))
    _sky(world, 300.0)
    for _ in range(int(g.integers(3, 10))):
        half = np.array([*g.uniform(2, 14, 2), g.uniform(0.005, 0.05)])
        place = np.array([*g.uniform(-15, 15, 2), 0])
        world.add(Shape.BOX, place, half, world.material(8.0, GROUNDS), g.choice([0.3, g.uniform(0, 3)]), shadow=False)
    for _ in range(int(g.integers(14, 36))):
        place = np.array([*g.uniform(-15, 15, 2), 0.0])
        build = (objects.tree, objects.house, objects.house, objects.block)[int(g.integers(4))]
        build(world, place, g.uniform(2, 6))
    height = g.uniform(14, 30)
    return paths.flight(g, np.zeros(3), height, height * _near(g, 0.25, 0.9), views)


def clutter(world: World, views: int) -> paths.Path:
    """Solids in the air, turned anyhow: nothing is as expected but the geometry."""
    g = world.generator
    _surroundings(world, g.uniform(3, 9))
    if g.random() < 0.5:
        world.add(Shape.PLANE, -g.uniform(0.4, 1.2) * UP, np.ones(3), world.material(2.0))
    for _ in range(int(g.integers(10, 40))):
        half = 0.5 * _near(g, 0.08, 0.8) * np.exp(g.normal(0, 0.6, 3))
        shape = Shape(int(g.choice([0, 1, 1, 2])))
        place, turn = g.normal(0, 0.55, 3), random_rotation(g)
        faces = tuple(world.material(float(half.max())) for _ in range(6))
        world.add(shape, place, half, faces, turn)
    if g.random() < 0.5:
        return paths.arc(g, np.zeros(3), g.uniform(1.8, 3), views, g.uniform(0.3, 2.0), g.uniform(0.1, 0.7))
    return paths.grid(g, np.array([g.uniform(1.8, 3.0), 0, g.uniform(0, 1)]), np.zeros(3), _near(g, 0.08, 0.8), views)


Layout = Callable[[World, int], paths.Path]

LAYOUTS: dict[str, tuple[Layout, float]] = {
    "room": (room, 0.3),
    "tabletop": (tabletop, 0.25),
    "outdoors": (outdoors, 0.15),
    "facade": (facade, 0.1),
    "aerial": (aerial, 0.05),
    "clutter": (clutter, 0.15),
}
"""Every kind by name, with its share of the scenes."""
