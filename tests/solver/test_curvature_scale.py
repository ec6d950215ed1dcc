# SPDX-License-Identifier: Apache-2.0
"""The moving average D, where scenes of a batch are missing or unsound."""

import math

import pytest
import torch

from ns_diff3r.solver.curvature_scale import CurvatureScale

ONE = torch.arange(1.0, 7.0, dtype=torch.float64)


def test_the_first_update_is_the_mean_of_its_scenes():
    scale = CurvatureScale(decay=0.9)
    scale.update(torch.stack([ONE, 3 * ONE]))
    assert scale.scale() == pytest.approx((2 * ONE).tolist())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scenes_whose_curvature_is_not_finite_do_not_count(bad):
    scale = CurvatureScale()
    spoiled = ONE.clone()
    spoiled[2] = bad
    scale.update(torch.stack([ONE, spoiled]))
    assert scale.scale() == pytest.approx(ONE.tolist())
    scale.update(spoiled[None])
    assert int(scale.num_updates) == 1
    assert scale.scale() == pytest.approx(ONE.tolist())


def test_an_update_without_scenes_changes_nothing():
    scale = CurvatureScale()
    scale.update(torch.zeros(0, 6, dtype=torch.float64))
    assert not scale.has_history
    assert torch.equal(scale.average, torch.zeros(6, dtype=torch.float64))
