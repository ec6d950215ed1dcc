# SPDX-License-Identifier: Apache-2.0
"""Comparing a gradient with central differences along fixed directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """How well ⟨gradient, direction⟩ agrees with central differences, over all directions of a group."""

    directions: int
    cosine: float
    """Between the two vectors; NaN if either is zero."""
    relative_error: float
    """|inner products − differences| / |differences|."""
    noise: float
    """|differences − differences with twice the step| / |differences|: what the differences themselves are worth."""
    norm: float
    """|differences|, per unit of the parameters."""

    @staticmethod
    def of(products: Float[Tensor, " D"], differences: Float[Tensor, " D"], coarse: Float[Tensor, " D"]) -> Agreement:
        """From the vectors; `coarse` are differences with twice the step, NaN where not taken."""
        norm = float(differences.norm())
        cosine = (
            float(products @ differences) / (float(products.norm()) * norm) if norm and products.any() else float("nan")
        )
        taken = ~coarse.isnan()
        noise = float((differences - coarse)[taken].norm() / differences[taken].norm()) if taken.any() else float("nan")
        error = float((products - differences).norm()) / norm if norm else float("nan")
        return Agreement(len(products), cosine, error, noise, norm)


def directions(gradient: Float[Tensor, " G"], count: int, seed: int) -> Iterator[Float[Tensor, " G"]]:
    """`count` directions of a group: the gradient's own (unit length), then normal random ones.

    Random ones have entries of unit variance, so that every inner product with the gradient is of the size of its norm
    and the gradient's own direction does not outweigh all others. `count` 0 gives all coordinates instead.
    """
    if count == 0:
        for i in range(len(gradient)):
            yield torch.zeros_like(gradient).index_fill_(0, torch.tensor([i]), 1.0)
        return
    norm = gradient.norm()
    yield gradient / norm if norm > 0 else torch.ones_like(gradient) / len(gradient) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count - 1):
        yield torch.randn(len(gradient), generator=generator, dtype=gradient.dtype)


def compare(
    function: Callable[[Float[Tensor, " P"]], float],
    point: Float[Tensor, " P"],
    part: slice,
    gradient: Float[Tensor, " P"],
    unit: float | Float[Tensor, " G"],
    count: int,
    seed: int,
    step: float = 1e-3,
    checks: int = 4,
    progress: Callable[[], object] = lambda: None,
) -> Agreement:
    """Central differences of `function` at `point` within `part`, against ⟨gradient, direction⟩.

    Args:
        unit: what one parameter is measured in, for all of the group or for each: its learning rate, or its own value.
            Directions and the reported norm are in these units.
        count: number of directions, 0 for all coordinates.
        step: largest change of a parameter, in units.
        checks: of how many directions the difference is taken again with twice the step.
        progress: called once a direction.
    """
    units = unit if isinstance(unit, Tensor) else torch.full_like(gradient[part], unit)
    products, differences, coarse = [], [], []
    for i, direction in enumerate(directions(gradient[part] * units, count, seed)):
        moved = torch.zeros_like(point)
        moved[part] = direction * units
        size = step / float(direction.abs().max())

        def difference(size: float, moved: Tensor = moved) -> float:
            return (function(point + size * moved) - function(point - size * moved)) / (2 * size)

        products.append(float(gradient @ moved))
        differences.append(difference(size))
        coarse.append(difference(2 * size) if i < checks else float("nan"))
        progress()
    return Agreement.of(*(torch.tensor(values, dtype=torch.float64) for values in (products, differences, coarse)))
