# SPDX-License-Identifier: Apache-2.0
"""`gradcheck --modes`, `compare` and the benchmark of backward modes, on the bundled example at a small size."""

import csv
import itertools
import json
import math
from pathlib import Path

import pytest

from ns_diff3r.cli import ruler
from ns_diff3r.cli.benchmark_backward import VARIANTS, backward_times, draw_memory
from ns_diff3r.cli.main import main

EXAMPLE = str(Path(__file__).resolve().parents[2] / "examples" / "room")
SMALL = ["--data", EXAMPLE, "--max-size", "16", "--num-gaussians", "20", "--targets", "1", "--sh-degree", "0"]
RUN = ["--steps", "4", "--fit-steps", "20", "--directions", "3"]


def test_gradcheck_measures_modes(tmp_path):
    file, chart = tmp_path / "modes.json", tmp_path / "modes.svg"
    modes = ["adjoint", "adjoint-differences", "truncated", "implicit", "metagrad", "first_order"]
    arguments = ["gradcheck", *SMALL, *RUN, "--modes", *modes, "--horizons", "4", "11", "--chart", str(chart)]
    assert main([*arguments, "--require-cosine", "0.9999", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert [(row["steps"], row["mode"]) for row in results["modes"]] == [(k, mode) for k in (4, 11) for mode in modes]
    rows = {(row["steps"], row["mode"]): row for row in results["modes"]}
    for steps in (4, 11):
        for mode in ("adjoint", "adjoint-differences"):
            assert rows[steps, mode]["cos θ⁰"] > 0.9999
            assert rows[steps, mode]["error λ"] < 1e-3
            assert rows[steps, mode]["worst cos λ to differences"] > 0.9999
            assert rows[steps, mode]["decrease θ⁰"] == pytest.approx(1.0, abs=1e-3)
    assert rows[4, "truncated"]["cos θ⁰"] > 0.9999  # ten steps are more than four
    assert rows[11, "truncated"]["error θ⁰"] > 1e-6
    assert rows[11, "implicit"]["cos θ⁰"] < 0.9
    assert math.isnan(rows[11, "first_order"]["cos λ"])
    assert rows[11, "first_order"]["decrease λ"] == 0.0
    assert rows[11, "adjoint"]["decrease λ"] == 1.0
    assert {row["group"] for row in results["groups"]} == {"means", "quats", "scales", "opacities", "sh0"}
    assert chart.read_text().startswith("<svg")


def test_gradcheck_of_modes_fails_for_a_wrong_gradient(monkeypatch, capsys):
    right = ruler.mode_gradient

    def wrong(*arguments):
        found = right(*arguments)
        found.multiplier.neg_()
        return found

    monkeypatch.setattr(ruler, "mode_gradient", wrong)
    assert main(["gradcheck", *SMALL, *RUN, "--modes", "adjoint", "--require-cosine", "0.9"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_gradcheck_begins_with_what_the_network_predicts(tmp_path):
    file = tmp_path / "modes.json"
    arguments = ["gradcheck", *SMALL, "--steps", "2", "--fit-steps", "0", "--directions", "0", "--modes", "first_order"]
    assert main([*arguments, "--initialisation", "network", "--precision", "float32", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert results["Gaussians"] >= 2 * 16 * 12
    assert "cosine to differences" not in results["groups"][0]


def test_compare_writes_curves_and_marks_what_diverged(tmp_path, capsys):
    output = tmp_path / "compare"
    arguments = ["compare", "--data", EXAMPLE, "--max-size", "24", "--num-gaussians", "200", "--steps", "8"]
    arguments += ["--optimizers", "adam", "adam-decayed", "lm", "sgd", "--sgd-rate", "1e12", "--lm-steps", "3"]
    assert main([*arguments, "--priors", "0", "1", "--lpips", "off", "--output", str(output)]) == 0
    summary = json.loads((output / "summary.json").read_text())["summary"]
    assert len(summary) == 8
    for row in summary:
        if row["optimizer"] == "sgd":  # without a prior everything may fly out of sight and stay there
            assert row["λ"] == 0.0 or row["status"] == "DIV"
            assert math.isnan(row["last"]) == (row["status"] == "DIV")
        else:
            assert row["status"] == "completed"
            assert row["last"] == pytest.approx(row["best"]) or row["best"] > row["last"]
            assert row["seconds"] > 0
            assert math.isfinite(row["gap"])
    with (output / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    adam = [row for row in rows if row["optimizer"] == "adam" and float(row["λ"]) == 0.0]
    assert [int(row["step"]) for row in adam] == [0, 1, 2, 5, 8]
    assert float(adam[-1]["context_loss"]) < float(adam[0]["context_loss"])
    assert all(float(a["seconds"]) < float(b["seconds"]) for a, b in itertools.pairwise(adam))
    lm = [row for row in rows if row["optimizer"] == "lm" and float(row["λ"]) == 0.0]
    assert [int(row["step"]) for row in lm] == [0, 1, 2, 3]
    assert (output / "room_psnr_by_step.svg").exists()
    assert "DIV" in capsys.readouterr().out


def test_compare_wants_as_many_beginnings_as_scenes(tmp_path, capsys):
    arguments = ["compare", "--data", EXAMPLE, EXAMPLE, "--initial", "one.ply", "--output", str(tmp_path)]
    assert main(arguments) == 1
    assert "2 scenes and 1 initial" in capsys.readouterr().err


def test_benchmark_of_backward_modes(tmp_path):
    rows = backward_times(16, 3, 1)
    assert [row["mode"] for row in rows] == list(VARIANTS)
    assert all(row["forward"] > 0 and row["backward"] >= 0 for row in rows)
    memory = [
        {"kind": "adjoint", "size": 8, "Gaussians": 5, "steps": k, "forward": 1.0 * k, "backward": 2.0 * k}
        for k in (1, 2, 4)
    ]
    draw_memory(memory, tmp_path / "memory.svg")
    assert "adjoint, 8²" in (tmp_path / "memory.svg").read_text()
