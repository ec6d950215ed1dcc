# SPDX-License-Identifier: Apache-2.0
"""Which frames of a scene are context and targets of one training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .view_selection import farthest_views, nearest_views

if TYPE_CHECKING:
    from .sampler import SamplerConfig

Distances = Callable[[], Float[np.ndarray, "V V"]]


def choose_views(
    config: SamplerConfig,
    candidates: tuple[int, ...],
    distances: Distances,
    step: int,
    generator: np.random.Generator,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(context, targets) of one step, both ascending.

    Args:
        config: how they are chosen, and within which bounds.
        candidates: training images of the scene, ascending, at least two.
        distances: gives `view_distances` of the scene; not called where it is not needed.
        step: of training; bounds change while they warm up.
        generator: of every choice.
    """
    count = num_context_of(len(candidates), config.num_context)
    if len(candidates) <= count:  # two images: both are context, and the targets are among them
        shuffled = generator.permutation(candidates)[: config.num_targets]
        return candidates, tuple(sorted(int(i) for i in shuffled))
    if config.selection == "bounded":
        return _bounded(config, candidates, count, step, generator)
    first = int(generator.choice(candidates))
    window = _window(config, candidates, distances(), first, step, count + 1, generator)
    others = [i for i in window if i != first]
    if config.selection == "farthest":
        context = farthest_views(distances(), first, window, count)
    elif config.selection == "random":
        context = (first, *(int(i) for i in generator.choice(others, count - 1, replace=False)))
    else:
        # Half of the window, by chance: with all of it every target would have one context for ever.
        subset = generator.choice(others, max(count, (len(others) + 1) // 2), replace=False)
        context = nearest_views(distances(), first, [int(i) for i in subset], count)
    left = [i for i in window if i not in context and i != first]
    targets = [first] if first not in context else []
    extra = min(config.num_targets - len(targets), len(left))
    targets += [int(i) for i in generator.choice(left, extra, replace=False)] if extra else []
    return tuple(sorted(context)), tuple(sorted(targets))


def num_context_of(num_training: int, num_context: int) -> int:
    """How many context views a scene of so many training images has: one image is left for the targets where possible,
    and there are two context views in any case."""
    return min(num_context, max(2, num_training - 1))


def _bounded(
    config: SamplerConfig, candidates: tuple[int, ...], count: int, step: int, generator: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As pixelSplat and its successors do: the outer context views are a random gap apart, all else lies between."""
    assert config.gap_start is not None
    low, high = _blend(config.gap_start, config.gap_end or config.gap_start, _warmth(config, step))
    gap = int(generator.integers(round(low), round(high) + 1))
    frames = np.asarray(candidates)
    # Where the scene is too short for the gap, or has few images within it, the gap gives way.
    begins = np.flatnonzero(frames <= max(frames[0], frames[-1] - gap))
    begin = int(generator.choice(begins))
    end = int(np.abs(frames - (frames[begin] + gap)).argmin())
    begin = max(0, min(begin, len(frames) - 1 - count))
    end = max(end, begin + count)
    between = frames[begin + 1 : end]
    inner = generator.choice(between, count - 2, replace=False)
    left = np.setdiff1d(between, inner)
    targets = generator.choice(left, min(config.num_targets, len(left)), replace=False)
    context = (frames[begin], frames[end], *inner)
    return tuple(sorted(int(i) for i in context)), tuple(sorted(int(i) for i in targets))


def _window(
    config: SamplerConfig,
    candidates: tuple[int, ...],
    distances: Float[np.ndarray, "V V"],
    first: int,
    step: int,
    at_least: int,
    generator: np.random.Generator,
) -> list[int]:
    """Training images within a random distance (and gap) of `first`, `first` included; more where they are few."""
    share = _warmth(config, step)
    radius = generator.uniform(*_blend(config.baseline_start, config.baseline_end, share))
    inside = {i for i in candidates if distances[first, i] <= radius}
    rank_of = distances[first]
    if config.gap_start is not None:
        low, high = _blend(config.gap_start, config.gap_end or config.gap_start, share)
        gap = np.abs(np.arange(len(distances)) - first)
        limit = generator.integers(round(low), round(high) + 1)
        inside &= {i for i in candidates if gap[i] <= limit}
        rank_of = gap
    order = sorted(candidates, key=lambda i: (i not in inside, rank_of[i], i))
    return sorted(order[: max(at_least, len(inside))])


def _warmth(config: SamplerConfig, step: int) -> float:
    """How much of the warm-up has passed."""
    return min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0


def _blend(start: tuple[float, float], end: tuple[float, float], share: float) -> tuple[float, float]:
    low, high = ((1 - share) * a + share * b for a, b in zip(start, end, strict=True))
    return low, high
