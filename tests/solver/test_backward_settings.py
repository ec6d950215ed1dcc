# SPDX-License-Identifier: Apache-2.0
"""Combinations of settings that cannot work are refused when they are read; the implicit mode warns once."""

import logging

import pytest

from ns_diff3r.solver import BackwardConfig, DifferentiableTTO, LearningRates, TTOConfig, penalties
from ns_diff3r.solver.backward import BackwardMode, make_backward_pass
from ns_diff3r.solver.backward.combinations import check_combination
from ns_diff3r.splats import GROUPS
from tests.solver.layer_calls import config_of, watched


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backward_mode": "adjoint", "optimizer": "gauss_newton"}, "adam and sgd"),
        ({"backward_mode": "truncated", "optimizer": "gauss_newton"}, "adam and sgd"),
        ({"backward_mode": "unroll"}, '"reference"'),
        ({"backward_mode": "unroll", "backend": "native"}, '"reference"'),
        ({"backward_mode": "unroll", "backend": "reference", "optimizer": "gauss_newton"}, "adam and sgd"),
        ({"backward_mode": "newton"}, "newton"),
        ({"backward_mode": "adjoint", "optimizer": "lm"}, "adam and sgd"),
    ],
)
def test_impossible_combinations_are_refused_when_the_settings_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        TTOConfig(**settings)


def test_recomputation_needs_a_backend_that_repeats_itself():
    recompute, snapshots = BackwardConfig(trajectory="recomputation"), BackwardConfig()
    with pytest.raises(ValueError, match="snapshots"):
        check_combination(BackwardMode.ADJOINT, recompute, "adam", "gsplat", 50)
    check_combination(BackwardMode.ADJOINT, snapshots, "adam", "gsplat", 50)
    check_combination(BackwardMode.IMPLICIT, recompute, "adam", "gsplat", 50)
    for backend in ("auto", "native", "reference"):
        check_combination(BackwardMode.TRUNCATED, recompute, "sgd", backend, 50)


@pytest.mark.parametrize(
    "broken",
    [{"hessian": "diagonal"}, {"trajectory": "disk"}, {"num_iterations": -1}, {"difference_step": 0.0}],
)
def test_bad_values_are_refused(broken):
    with pytest.raises(ValueError, match=f"BackwardConfig.{next(iter(broken))}"):
        BackwardConfig(**broken)


def test_every_mode_has_an_implementation():
    for mode in BackwardMode:
        assert callable(make_backward_pass(mode))


def test_implicit_warns_once_in_the_life_of_a_layer(dense, caplog):
    init, context, _ = dense(bend=1.0)
    layer = DifferentiableTTO(config_of(num_steps=1)).train()
    with caplog.at_level(logging.WARNING, logger="ns_diff3r"):
        ratios = [layer(watched(init), 0.5, context)[1].stationarity for _ in range(3)]
    assert len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert f"{ratios[0]:.2g}" in text
    assert 'backward_mode "adjoint"' in text
    caplog.clear()
    DifferentiableTTO(config_of(num_steps=1, backward_mode="adjoint")).train()(watched(init), 0.5, context)
    DifferentiableTTO(config_of(num_steps=1)).eval()(watched(init), 0.5, context)
    assert not caplog.records


def test_levenberg_marquardt_needs_a_loss_that_it_can_weight(monkeypatch):
    monkeypatch.setattr(penalties, "WITH_CURVATURE", ("mse",))
    TTOConfig(optimizer="adam")
    for optimizer in ("lm", "gauss_newton"):
        with pytest.raises(ValueError, match="need a curvature"):
            TTOConfig(optimizer=optimizer)


def test_a_gradient_that_explodes_is_told(dense):
    """Rates far beyond what the curvature allows: every step multiplies the gradient."""
    init, context, _ = dense()
    reports = []
    for rate in (0.01, 300.0):
        rates = LearningRates(**dict.fromkeys(GROUPS, rate))
        config = config_of(num_steps=6, optimizer="sgd", learning_rates=rates, backward_mode="adjoint")
        theta, solution = DifferentiableTTO(config).eval()(watched(init), None, context)
        theta.flatten().square().sum().backward()
        reports.append(solution.backward.warnings)
    assert reports[0] == []
    assert "chaos" in reports[1][0]
