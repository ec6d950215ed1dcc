# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from ns_diff3r.evaluation.rank_correlation import ranks, spearman


def test_ties_share_the_mean_of_their_ranks():
    assert ranks(np.array([30.0, 10.0, 20.0, 10.0, 20.0, 20.0])).tolist() == [6.0, 1.5, 4.0, 1.5, 4.0, 4.0]


def test_monotone_functions_have_correlation_one():
    values = np.random.default_rng(0).normal(size=50)
    assert spearman(values, np.exp(3 * values)).value == pytest.approx(1.0)
    assert spearman(values, -(values**3)).value == pytest.approx(-1.0)


def test_a_known_value_with_ties():
    """scipy.stats.spearmanr of these is 0.415625."""
    first = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0, 6.0, 7.0])
    second = np.array([2.0, 1.0, 3.0, 3.0, 9.0, 1.0, 4.0, 6.0, 8.0, 3.0])
    a, b = ranks(first), ranks(second)
    assert spearman(first, second).value == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert spearman(first, second).value == pytest.approx(0.415625, abs=1e-12)


def test_what_is_undefined_is_said():
    varies, constant = np.arange(12.0), np.full(12, 3.0)
    constant[::2] *= 1 + 1e-9
    assert spearman(varies, varies, ("λ", "views")).reason == ""
    first = spearman(constant, varies, ("λ", "views"))
    assert (first.value, first.pairs, first.reason) == (None, 12, "λ is the same everywhere")
    assert spearman(varies, constant, ("λ", "views")).reason == "views is the same everywhere"
    assert spearman(varies[:9], varies[:9]).reason == "only 9 Gaussians"
    assert spearman(np.zeros(12), varies).value is None


def test_pairs_with_a_nan_are_left_out():
    first, second = np.arange(14.0), np.arange(14.0)
    second[3], first[5] = np.nan, np.nan
    found = spearman(first, second)
    assert found.pairs == 12
    assert found.value == pytest.approx(1.0)
