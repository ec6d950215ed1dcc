# SPDX-License-Identifier: Apache-2.0
"""Context photographs as people really take them: one exposed or tinted otherwise, one with something before the lens,
cameras that are known roughly (Diff3R's colour-shift test, and what is near to it)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..data.batches import SceneBatch
from ..splats import Cameras

CorruptionName = Literal["exposure", "tint", "occluder", "poses"]
CORRUPTIONS: tuple[CorruptionName, ...] = get_args(CorruptionName)
"""All of them."""

GAMMA = 2.2
"""Between pixel values and light, to which exposure and white balance apply."""
STOPS = 0.7
"""Of "exposure": one photograph is brighter or darker by this many stops."""
TINT = 0.35
"""Of "tint": one photograph's red and blue light is multiplied and divided by 1 + this, or the reverse."""
OCCLUDER_SIDE = 0.35
"""Of "occluder": sides of an opaque rectangle, as fractions of those of the image."""
POSE_DEGREES = 0.3
"""Of "poses": angle by which each camera is turned, about a random axis."""
POSE_SHIFT = 0.01
"""Of "poses": distance by which each camera is moved, over the mean distance between the cameras' centres."""


def corrupted(batch: SceneBatch, name: CorruptionName, seed: int = 0, severity: float = 1.0) -> SceneBatch:
    """The batch with its context changed; the targets, on which the result is judged, stay as they are.

    What is changed, and how, is a function of the seed, the scene's name and its frames: all methods see the same.

    Args:
        batch: at least one context view.
        name: "exposure" and "tint" change one context view in linear light (gamma 2.2), "occluder" covers a part of
            one, "poses" turns and moves every camera of the context a little.
        seed: of the choice.
        severity: multiplies the size of the change (stops, tint, side of the rectangle, angle and distance); 0 changes
            nothing but rounding.

    Raises:
        ValueError: an unknown name, a severity that is negative or not finite.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    if not 0.0 <= severity < math.inf:
        raise ValueError(f"the severity of a corruption must be finite and not negative, got {severity}")
    about = f"{seed} {name} {batch.name} {batch.context_indices} {batch.target_indices}"
    generator = Generator().manual_seed(zlib.crc32(about.encode()))
    context = batch.context
    if name == "poses":
        cameras = moved_cameras(context.cameras, severity * POSE_DEGREES, severity * POSE_SHIFT, generator)
        return replace(batch, context=replace(context, cameras=cameras))
    view = int(torch.randint(context.num_views, (1,), generator=generator))
    images = context.images.clone()
    images[view] = _CHANGES[name](images[view], severity, generator)
    return replace(batch, context=replace(context, images=images))


def moved_cameras(cameras: Cameras, degrees: float, shift: float, generator: Generator) -> Cameras:
    """Cameras turned about their own centres by an angle and moved by a distance, each in random directions.

    Args:
        cameras: V cameras.
        degrees: of every turn.
        shift: of every move, over the mean distance between the centres (0 with a single camera or a single place).
        generator: of the directions, on the CPU.
    """
    centers = cameras.centers
    axes, directions = (
        torch.nn.functional.normalize(torch.randn(cameras.num_views, 3, generator=generator).to(centers), dim=1)
        for _ in range(2)
    )
    spread = torch.nn.functional.pdist(centers).mean() if cameras.num_views > 1 else centers.new_zeros(())
    turn = torch.matrix_exp(_cross(math.radians(degrees) * axes))
    rotations = turn @ cameras.viewmats[:, :3, :3]
    moved = centers + shift * spread * directions
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, :3] = rotations
    viewmats[:, :3, 3] = -(rotations @ moved[:, :, None])[:, :, 0]
    return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)


def _cross(vectors: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3 3"]:
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)


def _sign(generator: Generator) -> float:
    return 1.0 if torch.rand((), generator=generator) < 0.5 else -1.0


def _lit(image: Float[Tensor, "H W 3"], gains: Float[Tensor, " 3"]) -> Float[Tensor, "H W 3"]:
    return (image.clamp(0, 1) ** GAMMA * gains.to(image)).clamp(0, 1) ** (1 / GAMMA)


def _exposure(image: Float[Tensor, "H W 3"], severity: float, generator: Generator) -> Float[Tensor, "H W 3"]:
    return _lit(image, torch.full((3,), 2.0 ** (_sign(generator) * STOPS * severity)))


def _tint(image: Float[Tensor, "H W 3"], severity: float, generator: Generator) -> Float[Tensor, "H W 3"]:
    gain = (1.0 + TINT * severity) ** _sign(generator)
    return _lit(image, torch.tensor([gain, 1.0, 1.0 / gain]))


def _occluder(image: Float[Tensor, "H W 3"], severity: float, generator: Generator) -> Float[Tensor, "H W 3"]:
    height, width = image.shape[:2]
    sides = [min(size, round(OCCLUDER_SIDE * severity * size)) for size in (height, width)]
    top, left = (
        int(torch.randint(size - side + 1, (1,), generator=generator))
        for size, side in zip((height, width), sides, strict=True)
    )
    covered = image.clone()
    covered[top : top + sides[0], left : left + sides[1]] = torch.rand(3, generator=generator).to(image)
    return covered


_CHANGES: dict[str, Callable[[Tensor, float, Generator], Tensor]] = {
    "exposure": _exposure,
    "tint": _tint,
    "occluder": _occluder,
}
