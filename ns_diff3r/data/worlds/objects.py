# SPDX-License-Identifier: Apache-2.0
"""Things that stand in generated scenes: furniture, crockery, plants, houses, each of a few solids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from .solids import Shape
from .world import World, random_rotation, rotation_about_z

Place = Float[np.ndarray, " 3"]
"""Where the middle of the underside stands."""
UP = np.array([0.0, 0.0, 1.0])


def block(world: World, place: Place, size: float) -> None:
    """A box with a look on each pair of faces, standing turned."""
    g = world.generator
    half = 0.5 * size * g.uniform(0.3, 1.0, 3)
    faces = world.material(size)
    materials: int | tuple[int, ...] = faces
    if g.random() < 0.5:
        materials = (faces, world.material(size), world.material(size), faces, faces, world.material(size))
    world.add(Shape.BOX, place + half[2] * UP, half, materials, g.uniform(0, np.pi))


def ball(world: World, place: Place, size: float) -> None:
    """A ball or an egg."""
    g = world.generator
    half = 0.5 * size * (np.ones(3) if g.random() < 0.5 else g.uniform(0.5, 1.0, 3))
    world.add(Shape.BALL, place + half[2] * UP, half, world.material(size), g.uniform(0, np.pi))


def can(world: World, place: Place, size: float) -> None:
    """A standing cylinder with a label, or a disc."""
    g = world.generator
    radius, half = size * g.uniform(0.15, 0.45), size * g.uniform(0.1, 0.6)
    side, end = world.material(size), world.material(size)
    world.add(
        Shape.CYLINDER, place + half * UP, [radius, radius, half], (side, side, side, side, end, end), g.uniform(0, 6)
    )


def bottle(world: World, place: Place, size: float) -> None:
    """A body, a shoulder and a neck."""
    g = world.generator
    glass, radius = world.material(size), size * g.uniform(0.12, 0.22)
    body = size * g.uniform(0.2, 0.32)
    world.add(Shape.CYLINDER, place + body * UP, np.array([radius, radius, body]), glass)
    world.add(Shape.BALL, place + 2 * body * UP, radius * np.array([1, 1, g.uniform(0.6, 1.2)]), glass)
    neck = (size - 2 * body) / 2
    world.add(Shape.CYLINDER, place + (2 * body + neck) * UP, np.array([0.35 * radius, 0.35 * radius, neck]), glass)
    if g.random() < 0.6:
        label = world.material(size, ("text", "poster"))
        world.add(Shape.CYLINDER, place + body * UP, np.array([1.02 * radius, 1.02 * radius, 0.6 * body]), label)


def books(world: World, place: Place, size: float) -> None:
    """A pile of books."""
    g, height = world.generator, 0.0
    for _ in range(int(g.integers(2, 7))):
        half = np.array([0.4, 0.28, g.uniform(0.03, 0.09)]) * size * g.uniform(0.7, 1.1)
        cover, pages = (
            world.material(size, ("text", "poster", "plain", "grain")),
            world.material(size, ("stripes", "plain")),
        )
        offset = np.array([*g.uniform(-0.06, 0.06, 2) * size, height + half[2]])
        world.add(Shape.BOX, place + offset, half, (pages, cover, pages, cover, cover, cover), g.uniform(-0.3, 0.3))
        height += 2 * half[2]


def plant(world: World, place: Place, size: float) -> None:
    """A pot with leaves, or a bush without the pot."""
    g = world.generator
    foot = 0.0
    if g.random() < 0.7:
        foot = size * g.uniform(0.1, 0.2)
        world.add(Shape.CYLINDER, place + foot * UP, np.array([1.0, 1.0, 1.0]) * foot, world.material(size))
        foot *= 2
    leaf = [world.material(size * 0.3, ("foliage", "strokes", "clouds"), natural=True) for _ in range(2)]
    long = g.random() < 0.5
    for _ in range(int(g.integers(8, 26))):
        direction = g.standard_normal(3) * [1, 1, 0.8] + [0, 0, 0.5]
        direction /= np.linalg.norm(direction)
        half = size * (np.array([0.22, 0.05, 0.015]) if long else np.array([0.11, 0.08, 0.03])) * g.uniform(0.6, 1.5)
        where = place + [0, 0, foot + 0.3 * size] + direction * size * 0.3 * g.uniform(0.4, 1)
        other = np.cross(direction, [0.3, 0.5, 0.81])
        other /= np.linalg.norm(other)
        turn = np.stack([direction, other, np.cross(direction, other)], axis=1)
        world.add(Shape.BALL, where, half, leaf[int(g.integers(2))], turn, shadow=False)
    world.add(Shape.CYLINDER, place + 0.25 * size * UP, np.array([0.02, 0.02, 0.25]) * size, leaf[0])


def tree(world: World, place: Place, size: float) -> None:
    """A trunk and a crown of leafy balls."""
    g = world.generator
    trunk, crown = size * g.uniform(0.15, 0.3), world.material(size * 0.5, ("foliage", "strokes"), natural=True)
    bark = world.material(size * 0.3, ("wood", "grain", "cells", "strokes"), natural=True)
    world.add(Shape.CYLINDER, place + trunk * UP, [0.05 * size, 0.05 * size, trunk], bark)
    for _ in range(int(g.integers(3, 10))):
        offset = g.standard_normal(3) * [0.14, 0.14, 0.12] * size
        world.add(
            Shape.BALL,
            place + offset + (2 * trunk + 0.15 * size) * UP,
            size * g.uniform(0.1, 0.22) * g.uniform(0.7, 1, 3),
            crown,
        )


def table(world: World, place: Place, size: float) -> None:
    """A top on four legs, with something on it."""
    g = world.generator
    half = size * np.array([g.uniform(0.35, 0.6), g.uniform(0.25, 0.45), 0.025])
    height, yaw, leg = size * g.uniform(0.3, 0.6), g.uniform(0, np.pi), world.material(size, ("wood", "plain", "grain"))
    turn = rotation_about_z(yaw)
    world.add(Shape.BOX, place + height * UP, half, world.material(size), yaw)
    for sx in (-1, 1):
        for sy in (-1, 1):
            foot = turn @ np.array([sx * 0.88 * half[0], sy * 0.88 * half[1], 0.5 * height])
            world.add(
                Shape.BOX, place + foot, np.array([0.03 * size, 0.03 * size, 0.5 * height]), leg, yaw, shadow=False
            )
    for _ in range(int(g.integers(0, 4))):
        offset = turn @ np.array([*g.uniform(-0.75, 0.75, 2) * half[:2], height + half[2]])
        SMALL[int(g.integers(len(SMALL)))](world, place + offset, size * g.uniform(0.12, 0.3))


def chair(world: World, place: Place, size: float) -> None:
    """A seat, a back and legs."""
    g = world.generator
    yaw, wood, seat = g.uniform(0, 2 * np.pi), world.material(size, ("wood", "plain", "grain")), world.material(size)
    turn, w = rotation_about_z(yaw), 0.22 * size
    world.add(Shape.BOX, place + 0.45 * size * UP, np.array([w, w, 0.03 * size]), seat, yaw)
    world.add(
        Shape.BOX, place + turn @ np.array([0, -w, 0.72 * size]), np.array([w, 0.025 * size, 0.25 * size]), seat, yaw
    )
    for sx in (-1, 1):
        for sy in (-1, 1):
            foot = turn @ np.array([sx * 0.9 * w, sy * 0.9 * w, 0.22 * size])
            world.add(Shape.CYLINDER, place + foot, np.array([0.02, 0.02, 0.22]) * size, wood, shadow=False)


def shelf(world: World, place: Place, size: float) -> None:
    """Boards with things between them."""
    g = world.generator
    yaw, wood, boards = g.uniform(0, 2 * np.pi), world.material(size, ("wood", "plain", "grain")), int(g.integers(2, 5))
    turn, half = rotation_about_z(yaw), size * np.array([0.4, 0.15, 0.012])
    world.add(
        Shape.BOX,
        place + turn @ np.array([0, -half[1], 0.5 * size]),
        np.array([half[0], 0.01 * size, 0.5 * size]),
        wood,
        yaw,
    )
    for board in range(boards + 1):
        height = size * board / boards
        world.add(Shape.BOX, place + height * UP, half, wood, yaw, shadow=False)
        for x in np.arange(-0.85, 0.9, g.uniform(0.18, 0.5)) if board < boards else ():
            tall = size / boards * g.uniform(0.4, 0.85)
            part = np.array([0.06 * size, 0.8 * half[1], 0.5 * tall]) * [g.uniform(0.3, 1), 1, 1]
            where = place + turn @ np.array([x * half[0], 0, height + 0.5 * tall + half[2]])
            shape = Shape.BOX if g.random() < 0.75 else Shape.CYLINDER
            world.add(shape, where, part, world.material(0.3 * size, again=0.6), yaw, shadow=False)


def lamp(world: World, place: Place, size: float) -> None:
    """A foot, a thin pole and a shade."""
    g = world.generator
    metal = world.material(size, ("plain", "grain"))
    world.add(Shape.CYLINDER, place + 0.02 * size * UP, np.array([0.14, 0.14, 0.02]) * size, metal)
    world.add(Shape.CYLINDER, place + 0.4 * size * UP, np.array([0.015, 0.015, 0.4]) * size, metal, shadow=False)
    shade = Shape.CYLINDER if g.random() < 0.5 else Shape.BALL
    world.add(
        shade,
        place + 0.85 * size * UP,
        np.array([0.18, 0.18, 0.14]) * size,
        world.material(size, ("weave", "plain", "stripes")),
    )


def rock(world: World, place: Place, size: float) -> None:
    """A few turned balls and boxes in one lump."""
    g = world.generator
    stone = world.material(size, ("grain", "clouds", "cells", "dead_leaves"), natural=True)
    for _ in range(int(g.integers(1, 5))):
        half, shape = 0.5 * size * g.uniform(0.3, 0.8, 3), Shape.BALL if g.random() < 0.6 else Shape.BOX
        offset = np.array([*g.uniform(-0.25, 0.25, 2) * size, 0.3 * half[2]])
        world.add(shape, place + offset, half, stone, random_rotation(g))


def house(world: World, place: Place, size: float) -> None:
    """Walls with windows under a roof, a chimney now and then."""
    g = world.generator
    half = size * np.array([g.uniform(0.3, 0.7), g.uniform(0.3, 0.6), g.uniform(0.3, 0.9)])
    yaw, front, roof = (
        g.choice([0, g.uniform(0, np.pi)]),
        world.material(size, ("windows", "bricks")),
        world.material(size, ("bricks", "stripes", "grain")),
    )
    side = world.material(size, ("windows", "bricks", "grain"))
    world.add(Shape.BOX, place + half[2] * UP, half, (side, side, front, front, roof, roof), yaw)
    if g.random() < 0.6:  # a box on its edge, mostly sunk into the walls
        tilt = np.array([[1, 0, 0], [0, np.sqrt(0.5), -np.sqrt(0.5)], [0, np.sqrt(0.5), np.sqrt(0.5)]])
        edge = half[1] * 0.74
        world.add(
            Shape.BOX,
            place + 2 * half[2] * UP,
            np.array([half[0] * 1.05, edge, edge]),
            roof,
            rotation_about_z(yaw) @ tilt,
        )


def column(world: World, place: Place, size: float) -> None:
    """A pillar with foot and head."""
    stone, r = world.material(size, ("grain", "clouds", "bricks", "plain")), 0.08 * size
    world.add(Shape.CYLINDER, place + 0.5 * size * UP, np.array([r, r, 0.5 * size]), stone)
    for height in (0.03, 0.97):
        world.add(Shape.BOX, place + height * size * UP, np.array([1.4 * r, 1.4 * r, 0.03 * size]), stone)


def fence(world: World, place: Place, size: float) -> None:
    """Thin posts in a row with a rail."""
    g = world.generator
    yaw, wood, count = g.uniform(0, np.pi), world.material(size, ("wood", "plain", "grain")), int(g.integers(4, 11))
    turn = rotation_about_z(yaw)
    for i in range(count):
        x = (i / (count - 1) - 0.5) * size * 1.6
        world.add(
            Shape.BOX,
            place + turn @ np.array([x, 0, 0.3 * size]),
            np.array([0.025, 0.015, 0.3]) * size,
            wood,
            yaw,
            shadow=False,
        )
    for height in (0.2, 0.5):
        world.add(Shape.BOX, place + height * size * UP, np.array([0.85, 0.012, 0.02]) * size, wood, yaw)


def figure(world: World, place: Place, size: float) -> None:
    """A doll: legs, body, arms and head."""
    g = world.generator
    cloth, skin, yaw = world.material(size), world.material(size, ("plain", "grain")), g.uniform(0, 6)
    turn = rotation_about_z(yaw)
    for side in (-1, 1):
        world.add(
            Shape.CYLINDER,
            place + turn @ np.array([0.09 * side, 0, 0.2]) * size,
            np.array([0.06, 0.06, 0.2]) * size,
            cloth,
        )
        lean = random_rotation(g)
        world.add(
            Shape.BALL,
            place + turn @ np.array([0.22 * side, 0, 0.55]) * size,
            np.array([0.06, 0.06, 0.2]) * size,
            cloth,
            lean,
        )
    world.add(Shape.BALL, place + 0.55 * size * UP, np.array([0.19, 0.13, 0.22]) * size, cloth, yaw)
    world.add(Shape.BALL, place + 0.86 * size * UP, np.array([0.12, 0.12, 0.14]) * size, skin, yaw)


Builder = Callable[[World, Place, float], None]

SMALL: tuple[Builder, ...] = (block, ball, can, bottle, books, plant, rock, figure, block, can)
"""What stands on tables."""
FURNITURE: tuple[Builder, ...] = (table, chair, shelf, lamp, plant, block, books, table, chair, can, figure)
"""What stands in rooms."""
OUTDOORS: tuple[Builder, ...] = (tree, tree, rock, house, fence, plant, column, block, figure, tree, table)
"""What stands on the ground."""
