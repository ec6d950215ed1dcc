# SPDX-License-Identifier: Apache-2.0
"""Spearman's rank correlation, which is undefined where one side does not vary: said, not NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MIN_PAIRS = 10
"""Fewer pairs say nothing."""
SAME = 1e-6
"""Relative spread below which values are one value: what rounding leaves."""


@dataclass(frozen=True)
class Correlation:
    """A rank correlation, or why there is none.

    Attributes:
        value: in [-1, 1]; None where it is undefined.
        pairs: that it is of.
        reason: why it is undefined; "" where it is not.
    """

    value: float | None
    pairs: int
    reason: str = ""


def spearman(
    first: Float[np.ndarray, " N"], second: Float[np.ndarray, " N"], names: tuple[str, str] = ("first", "second")
) -> Correlation:
    """Pearson's correlation of the ranks, ties sharing the mean of theirs; pairs with a NaN are left out.

    `names` of the two appear in the reason where it is undefined: fewer than `MIN_PAIRS` pairs, or one side constant.
    """
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    pairs = len(first)
    if pairs < MIN_PAIRS:
        return Correlation(None, pairs, f"only {pairs} Gaussians")
    for values, name in zip((first, second), names, strict=True):
        if np.ptp(values) <= SAME * np.abs(values).max():
            return Correlation(None, pairs, f"{name} is the same everywhere")
    a, b = (ranks(values) - (pairs + 1) / 2 for values in (first, second))
    return Correlation(float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())), pairs)


def ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which.reshape(-1)]
