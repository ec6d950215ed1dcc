# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from ns_diff3r.cli.directions import Agreement, compare, directions

POINT = torch.linspace(-1, 1, 12, dtype=torch.float64)
RATES = torch.linspace(1, 2, 12, dtype=torch.float64)


def function(x: torch.Tensor) -> float:
    return float((RATES * x).sin().sum())


GRADIENT = RATES * (RATES * POINT).cos()


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize("unit", [0.1, RATES[3:9]])
def test_a_right_gradient_agrees(count, unit):
    agreement = compare(function, POINT, slice(3, 9), GRADIENT, unit, count, seed=0, step=1e-4)
    assert agreement.directions == (count or 6)
    assert agreement.cosine == pytest.approx(1.0, abs=1e-9)
    assert agreement.relative_error < 1e-6
    assert agreement.noise < 1e-6


@pytest.mark.parametrize("count", [0, 8])
def test_wrong_gradients_are_told_apart(count):
    for wrong, cosine, error in ((-GRADIENT, -1.0, 2.0), (3 * GRADIENT, 1.0, 2.0)):
        agreement = compare(function, POINT, slice(0, 12), wrong, 0.1, count, seed=0)
        assert agreement.cosine == pytest.approx(cosine, abs=1e-6)
        assert agreement.relative_error == pytest.approx(error, rel=1e-3)
    shuffled = compare(function, POINT, slice(0, 12), GRADIENT.roll(4), 0.1, count, seed=0)
    assert shuffled.cosine < 0.95


def test_one_wrong_entry_of_many_shows_in_all_coordinates():
    wrong = GRADIENT.clone()
    wrong[5] += 0.5
    agreement = compare(function, POINT, slice(0, 12), wrong, 0.1, 0, seed=0)
    assert agreement.relative_error == pytest.approx(0.5 / float(GRADIENT.norm()), rel=1e-3)


def test_only_the_group_moves():
    moved = []

    def recording(x):
        moved.append((x - POINT).abs())
        return function(x)

    compare(recording, POINT, slice(3, 9), GRADIENT, 0.5, 4, seed=0, step=2e-3)
    largest = torch.stack(moved).amax(dim=0)
    assert not largest[:3].any()
    assert not largest[9:].any()
    assert float(largest.max()) == pytest.approx(2e-3)  # twice the step, in the check of the differences themselves


def test_the_norm_is_per_unit_whatever_the_step():
    for step in (1e-3, 1e-4):
        agreement = compare(function, POINT, slice(0, 12), GRADIENT, 0.5, 0, seed=0, step=step)
        assert agreement.norm == pytest.approx(0.5 * float(GRADIENT.norm()), rel=1e-4)


def test_directions_begin_with_the_gradients_own():
    first, second, third = directions(GRADIENT, 3, seed=1)
    torch.testing.assert_close(first, GRADIENT / GRADIENT.norm())
    assert not torch.equal(second, third)
    again = list(directions(GRADIENT, 3, seed=1))
    torch.testing.assert_close(second, again[1], rtol=0, atol=0)
    (own,) = directions(torch.zeros(4, dtype=torch.float64), 1, seed=0)
    assert own.isfinite().all()


def test_vanishing_vectors_have_no_cosine():
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    assert math.isnan(Agreement.of(zero, one, one).cosine)
    assert math.isnan(Agreement.of(one, zero, zero).relative_error)
    assert Agreement.of(one, one, one * float("nan")).relative_error == 0.0
