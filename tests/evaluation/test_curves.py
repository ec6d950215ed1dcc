# SPDX-License-Identifier: Apache-2.0
"""Curves along test-time optimisation."""

import math
from dataclasses import replace

import pytest

from ns_diff3r.evaluation.curves import (
    Curve,
    CurvePoint,
    curve_rows,
    curves_of_rows,
    horizons,
    mean_curve,
    optimisation_curves,
    parse_prior,
)
from ns_diff3r.evaluation.metrics import psnr
from ns_diff3r.training.inference import reconstruct
from ns_diff3r.training.step import TrainingModule
from tests.training.doubles import batches, make_batch, make_config, make_network


def make_module() -> TrainingModule:
    """With a D of training, which is not that of the scene."""
    module = TrainingModule(make_network(), make_config(inner_steps=3)).train()
    module(batches([7]), 0)
    return module.eval()


def mean_psnr(module: TrainingModule, gaussians, views) -> float:
    drawn = module.draw(gaussians, views.cameras).detach().clamp(0, 1)
    found = [psnr(image, truth) for image, truth in zip(drawn, views.images, strict=True)]
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def curves():
    return optimisation_curves(make_module(), make_batch(0), ("learned", "none", "1e6"), 12)


@pytest.mark.parametrize("steps", [0, 5, 12])
def test_points_are_what_reconstruct_reaches_in_so_many_steps(curves, steps):
    module, batch = make_module(), make_batch(0)
    found = reconstruct(module, batch.context, steps)
    point = next(point for point in curves["learned"].points if point.step == steps)
    assert point.target == pytest.approx(mean_psnr(module, found.after, batch.targets), abs=1e-4)
    assert point.context == pytest.approx(mean_psnr(module, found.after, batch.context), abs=1e-4)


def test_priors_begin_alike_and_end_apart(curves):
    learned, free, held = curves["learned"], curves["none"], curves["1e6"]
    assert learned.points[0] == free.points[0] == held.points[0]
    assert held.last.context + 3 < min(learned.last.context, free.last.context)
    assert learned.last != free.last
    assert [point.step for point in free.points] == [0, 1, 2, 3, 5, 7, 10, 12]


def test_the_learning_rates_can_be_chosen():
    module, batch = make_module(), make_batch(0)
    usual = optimisation_curves(module, batch, ("none",), 3)["none"]
    own = optimisation_curves(module, batch, ("none",), 3, module.config.tto_rate_factor)["none"]
    slow = optimisation_curves(module, batch, ("none",), 3, 1e-6)["none"]
    assert usual == own
    assert abs(slow.last.target - slow.points[0].target) < 1e-3 < abs(usual.last.target - usual.points[0].target)


def test_a_run_that_diverges_has_no_value_from_there_on():
    curve = optimisation_curves(make_module(), make_batch(0), ("none",), 5, 1e42)["none"]
    assert [point.step for point in curve.points] == [0, 1, 2, 3, 5]
    assert math.isfinite(curve.points[0].target)
    assert math.isnan(curve.last.target)
    assert math.isfinite(curve.best.target)


def test_horizons_have_the_first_and_the_last_step():
    assert horizons(1) == (0, 1)
    assert horizons(4) == (0, 1, 2, 3, 4)
    assert horizons(300)[-3:] == (250, 275, 300)
    assert horizons(650)[-4:] == (400, 500, 600, 650)


def test_best_and_last():
    points = (CurvePoint(0, 20.0, 20.0), CurvePoint(1, 30.0, 25.0), CurvePoint(2, 35.0, 24.0))
    assert Curve(points).best.step == 1
    assert Curve(points).last.step == 2
    assert Curve((*points, CurvePoint(3, math.nan, math.nan))).best.step == 1
    assert Curve((CurvePoint(0, math.nan, math.nan),)).best.step == 0


def test_means_count_images():
    first = Curve((CurvePoint(0, 10.0, 20.0), CurvePoint(1, 12.0, 24.0)), weight=3)
    second = Curve((CurvePoint(0, 30.0, 40.0), CurvePoint(1, 32.0, 44.0)), weight=1)
    mean = mean_curve([first, second])
    assert mean.weight == 4
    assert [(point.context, point.target) for point in mean.points] == [(15.0, 25.0), (17.0, 29.0)]
    with pytest.raises(ValueError, match="same steps"):
        mean_curve([first, replace(second, points=second.points[:1])])
    with pytest.raises(ValueError, match="at least one"):
        mean_curve([])


def test_rows_keep_the_curves(curves):
    rows = curve_rows("room", "full", curves)
    found = curves_of_rows([{key: str(value) for key, value in row.items()} for row in rows])
    assert list(found) == [("room", "full", prior) for prior in curves]
    for (_, _, prior), curve in found.items():
        assert curve.weight == curves[prior].weight == 2
        for point, expected in zip(curve.points, curves[prior].points, strict=True):
            assert point.step == expected.step
            assert (point.context, point.target) == pytest.approx((expected.context, expected.target), abs=1e-5)


def test_priors_are_checked():
    assert (parse_prior("learned"), parse_prior("none"), parse_prior("0.5")) == ("learned", "none", 0.5)
    for wrong in ("0", "-1", "inf", "nan", "some"):
        with pytest.raises(ValueError, match="a prior is"):
            parse_prior(wrong)
