# SPDX-License-Identifier: Apache-2.0
"""Paired differences against cases worked out by hand."""

import pytest

from ns_diff3r.evaluation.paired import paired_difference


def test_equal_differences_leave_nothing_to_chance():
    first = {(scene, seed): 20.0 + seed for scene in "abc" for seed in (0, 1)}
    second = {cell: value - 0.25 for cell, value in first.items()}
    result = paired_difference(first, second)
    assert (result.mean, result.low, result.high) == (0.25, 0.25, 0.25)
    assert (result.num_scenes, result.num_seeds, result.wins) == (3, 2, 1.0)


def test_two_scenes_of_one_seed():
    """Resampled means are -1, 1, 3 with probabilities 1/4, 1/2, 1/4: 95 % reaches from -1 to 3, 40 % is at 1."""
    first, second = {("a", 0): 3.0, ("b", 0): -1.0}, {("a", 0): 0.0, ("b", 0): 0.0}
    result = paired_difference(first, second)
    assert (result.mean, result.low, result.high, result.wins) == (1.0, -1.0, 3.0, 0.5)
    narrow = paired_difference(first, second, confidence=0.4)
    assert (narrow.low, narrow.high) == (1.0, 1.0)


def test_scenes_and_seeds_are_drawn_independently():
    """Differences are a part of the scene plus a part of the seed, each -1 or 1."""
    first = {(scene, seed): s + k for scene, s in (("a", -1.0), ("b", 1.0)) for seed, k in ((0, -1.0), (1, 1.0))}
    zero = dict.fromkeys(first, 0.0)
    result = paired_difference(first, zero, resamples=40_000)
    # Scene part and seed part are each -1, 0, 1 with 1/4, 1/2, 1/4: -2 has 1/16, so that 5 % from below is -2 ...
    assert paired_difference(first, zero, confidence=0.9).low == -2.0
    # ... -1 or less has 5/16, 0 or less 11/16.
    assert paired_difference(first, zero, confidence=0.5).low == -1.0
    assert paired_difference(first, zero, confidence=0.2).low == 0.0
    assert result.mean == 0.0


def test_scenes_weigh_equally_and_only_pairs_count():
    first = {("a", 0): 1.0, ("b", 0): 3.0, ("c", 0): 100.0}
    result = paired_difference(first, {("a", 0): 0.0, ("b", 0): 0.0})
    assert (result.mean, result.num_scenes) == (2.0, 2)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="no scene and seed in common"):
        paired_difference({("a", 0): 1.0}, {("a", 1): 1.0})
    cells = {("a", 0): 1.0, ("a", 1): 1.0, ("b", 0): 1.0}
    with pytest.raises(ValueError, match="scene b has no figure for seed 1"):
        paired_difference(cells, cells)
    with pytest.raises(ValueError, match="confidence"):
        paired_difference({("a", 0): 1.0}, {("a", 0): 1.0}, confidence=1.0)
