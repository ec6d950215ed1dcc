# SPDX-License-Identifier: Apache-2.0
"""The commands as a user calls them, on the bundled example at a small size."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ns_diff3r import Gaussians
from ns_diff3r.cli import gradcheck as gradcheck_module
from ns_diff3r.cli.main import main

EXAMPLE = str(Path(__file__).resolve().parents[2] / "examples" / "room")


def test_optimize_improves_held_out_views_and_writes_files(tmp_path, capsys):
    output = tmp_path / "run"
    arguments = ["optimize", "--data", EXAMPLE, "--output", str(output), "--max-size", "60", "--steps", "30"]
    assert main([*arguments, "--num-gaussians", "800"]) == 0
    results = json.loads((output / "results.json").read_text())
    by_view = {row["view"]: row for row in results["psnr"]}
    assert by_view["mean, held out"]["gain"] > 3
    assert by_view["mean, context"]["gain"] > 3
    assert len(results["loss_curve"]) == 31
    assert results["environment"]["torch"]
    assert Gaussians.load_ply(output / "scene.ply").num_gaussians == 800
    width, height = Image.open(output / "comparison.png").size
    assert (width, height) == (3 * 242 - 2, 2 * 182 - 2)  # two held-out views, four-fold: photograph, before, after
    assert "mean, held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--data", EXAMPLE, "--context", "99"], "no view 99, the scene has 12"),
        (["--data", EXAMPLE, "--preset", "gsplat-9"], "unknown preset 'gsplat-9'"),
    ],
)
def test_faults_of_the_input_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NS_DIFF3R_TRACEBACK", raising=False)
    arguments = ["optimize", *arguments, "--output", str(tmp_path), "--max-size", "24", "--steps", "1"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    monkeypatch.setenv("NS_DIFF3R_TRACEBACK", "1")
    with pytest.raises((ValueError, OSError), match=message.split(" ")[0]):
        main(arguments)


def test_an_output_that_cannot_be_written_is_named_before_work_starts(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["optimize", "--data", EXAMPLE, "--output", str(tmp_path / "file" / "run")]) == 1
    assert "cannot write to" in capsys.readouterr().err


COLOURS_ONLY = ["--frozen-groups", "means", "quats", "scales", "opacities", "--sh-degree", "0"]
LINEAR = ["--loss", "mse", "--ssim-weight", "0", "--optimizer", "gauss_newton", "--steps", "2", "--fit-steps", "0"]
SMALL = ["--data", EXAMPLE, "--max-size", "24", "--num-gaussians", "20", "--targets", "1", "--prior", "30"]


@pytest.mark.parametrize("directions", [[], ["--few-directions", "--directions", "8"]])
def test_gradcheck_agrees_where_the_implicit_gradient_is_exact(directions, tmp_path):
    """Colours enter linearly (away from their clamp) and two Gauss-Newton steps reach the minimiser."""
    file = tmp_path / "gradcheck.json"
    arguments = ["gradcheck", *SMALL, *COLOURS_ONLY, *LINEAR, *directions, "--pcg-tolerance", "1e-10"]
    assert main([*arguments, "--require-cosine", "0.999999", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert results["stationarity"] < 1e-10
    assert [(row["gradient to"], row["group"]) for row in results["rows"]] == [("θ⁰", "sh0"), ("λ", "sh0")]
    for row in results["rows"]:
        assert row["relative_error"] < 1e-5, row
        assert row["directions"] == (8 if directions else 60)


def test_gradcheck_fails_for_a_wrong_gradient(monkeypatch, capsys):
    right = gradcheck_module.layer_gradient

    def wrong(*arguments):
        by_start, by_multiplier, theta, solution = right(*arguments)
        return by_start, -by_multiplier, theta, solution  # the sign that the paper's prose suggests

    monkeypatch.setattr(gradcheck_module, "layer_gradient", wrong)
    options = ["--few-directions", "--directions", "4", "--require-cosine", "0.99"]
    assert main(["gradcheck", *SMALL, *COLOURS_ONLY, *LINEAR, *options]) == 1
    assert "FAILED: a cosine of -1.0000" in capsys.readouterr().out


def test_benchmark_measures_every_part(tmp_path, capsys):
    file = tmp_path / "benchmark.json"
    arguments = ["benchmark", "--sizes", "16", "32", "--threads", "1", "2", "--rounds", "2", "--step-size", "24"]
    arguments += ["--parts", "products", "autograd", "step", "solve", "--autograd-size", "12"]
    assert main([*arguments, "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert [(row["threads"], row["size"]) for row in results["products"]] == [(1, 16), (1, 32), (2, 16), (2, 32)]
    for row in results["products"]:
        assert 35 < row["pairs/pixel"] < 50
        assert all(row[name] > 0 for name in ("forward ms", "vjp", "jvp", "gauss_newton", "hessian", "diagonal"))
    assert results["autograd"][0]["relative difference"] < 1e-4
    assert results["autograd"][0]["ratio"] > 1
    assert results["step"][0]["step ms"] > 0
    assert 0 <= results["step"][0]["Python %"] < 100
    assert all(row["residual"] < 1e-3 for row in results["solve"])
    assert "Products, one view" in capsys.readouterr().out


def test_doctor_reports_a_working_renderer(capsys):
    assert main(["doctor"]) == 0
    assert "works" in capsys.readouterr().out
