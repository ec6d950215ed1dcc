# SPDX-License-Identifier: Apache-2.0
"""The proximal prior ½ Σ Λ (θ − θ⁰)² of the inner loss, with Λ = λ·D (design §2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import GROUPS, Gaussians


def flat_strength(init: Gaussians, prior: Any) -> Float[Tensor, " P"]:
    """λ of every parameter of `init` as one flat vector; differentiable in the tensors of `prior`.

    Args:
        init: the Gaussians it belongs to.
        prior: one positive number (or a tensor with one element), or a Gaussians-shaped value: an object or a mapping
            with the six groups, whose leaves broadcast from the left to those of `init`: [N, 1] (or [N]) is one λ per
            Gaussian and attribute group, a full leaf is one per parameter. Half precision is converted.

    Raises:
        TypeError: no number and no Gaussians-shaped value.
        ValueError: a leaf does not broadcast, a group is missing, or a λ is not finite and positive.
    """
    leaves = _leaves_of(prior)
    flat = init.broadcast(**{name: _like(init, leaf) for name, leaf in leaves.items()}).flatten()
    _check_positive(init, flat.detach())
    return flat


def _leaves_of(prior: Any) -> dict[str, Any]:
    if isinstance(prior, (int, float)) and not isinstance(prior, bool):
        return dict.fromkeys(GROUPS, float(prior))
    if isinstance(prior, Tensor):
        if prior.numel() != 1:
            raise ValueError(
                f"a prior given as one tensor must hold one number, got {list(prior.shape)}; "
                "give one leaf per attribute group otherwise"
            )
        return dict.fromkeys(GROUPS, prior.reshape(()))
    named = prior if isinstance(prior, Mapping) else {n: getattr(prior, n) for n in GROUPS if hasattr(prior, n)}
    if not named:
        raise TypeError(f"the prior must be a number or hold the groups {list(GROUPS)}, got {type(prior).__name__}")
    missing = [name for name in GROUPS if name not in named]
    if missing:
        raise ValueError(f"the prior lacks the groups {missing}")
    return {name: named[name] for name in GROUPS}


def _like(init: Gaussians, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.device != init.device:
        raise ValueError(f"the prior is on {leaf.device}, the Gaussians are on {init.device}")
    return leaf.to(init.dtype)


def _check_positive(init: Gaussians, flat: Tensor) -> None:
    if flat.numel() == 0:
        return
    low, high = (float(bound) for bound in flat.aminmax())  # NaN in either if any is
    if low > 0.0 and high < float("inf"):
        return
    for name, part in init.group_slices().items():
        bad = int((~(flat[part] > 0) | flat[part].isinf()).sum())
        if bad:
            raise ValueError(
                f"the prior strength λ must be finite and positive; {bad} of {flat[part].numel()} values of {name} "
                "are not"
            )


@dataclass(frozen=True, eq=False)
class Prior:
    """½ Σ Λ (θ − θ⁰)² on flat vectors, Λ = λ·D."""

    anchor: Float[Tensor, " P"]
    """θ⁰."""
    multiplier: Float[Tensor, " P"]
    """λ > 0."""
    scale: Sequence[float]
    """D, one positive number per group in the order of GROUPS."""
    slices: Mapping[str, slice]
    """Group name → its slice of the flat layout."""

    @cached_property
    def strength(self) -> Float[Tensor, " P"]:
        """Λ = λ·D."""
        return self.times_scale(self.multiplier)

    def times_scale(self, flat: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """D ⊙ flat."""
        out = torch.empty_like(flat)
        for name, factor in zip(GROUPS, self.scale, strict=True):
            torch.mul(flat[self.slices[name]], factor, out=out[self.slices[name]])
        return out
