# SPDX-License-Identifier: Apache-2.0
"""The benchmark of training steps measures what it says."""

import json

import pytest
import torch

from ns_diff3r.backbones import CompactConfig
from ns_diff3r.cli import benchmark_training
from ns_diff3r.cli.benchmark_training import generated_batch, prior_cost, training_step_times
from ns_diff3r.cli.main import main

SMALL = CompactConfig(width=8, matching_channels=4, feature_channels=8, num_depths=8)


def test_context_and_targets_are_different_views():
    batch = generated_batch(16)
    assert batch.context.num_views == batch.targets.num_views == 2
    places = torch.cat([batch.context.cameras.centers, batch.targets.cameras.centers])
    assert len(places.unique(dim=0)) == 4
    assert batch.context.near is not None


def test_both_steps_are_taken_and_their_parts_add_up():
    row = training_step_times(24, tto_steps=5, pcg_iterations=3, rounds=2, backbone=SMALL)
    assert row["PCG iterations"] == 3
    assert row["bilevel ms"] > row["TTO ms"] + row["solve ms"] > 0
    assert row["ratio"] > 0
    difference = row["bilevel ms"] - row["plain ms"]
    assert row["TTO share %"] == pytest.approx(100 * row["TTO ms"] / difference)
    assert row["solve share %"] == pytest.approx(100 * row["solve ms"] / difference)
    free = training_step_times(24, tto_steps=5, pcg_iterations=None, rounds=2, backbone=SMALL)
    assert free["PCG iterations"] > 3


def test_the_cost_of_the_prior_is_that_of_two_kinds_of_step(monkeypatch):
    row = prior_cost(16, rounds=1)
    assert 0.3 < row["ratio"] < 3
    assert row["without ms"] > 0

    priors = []
    step = benchmark_training._Run.step

    def noted(run: benchmark_training._Run) -> None:
        priors.append(run.prior is not None)
        step(run)

    monkeypatch.setattr(benchmark_training._Run, "step", noted)
    prior_cost(16, rounds=1)
    assert priors == [False, True] * 21


def test_the_command_prints_both_tables(tmp_path, capsys):
    file = tmp_path / "benchmark.json"
    arguments = ["benchmark", "--parts", "prior", "training", "--step-size", "16", "--rounds", "2"]
    assert main([*arguments, "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert len(results["prior"]) == 1
    assert results["training"][0]["PCG iterations"] == 8
    text = capsys.readouterr().out
    assert "with a prior" in text
    assert "feed-forward (plain) and through TTO (bilevel)" in text
