# SPDX-License-Identifier: Apache-2.0
"""Rows of the ablation: what is tuned on which scenes, and going on after a kill."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ns_diff3r.cli.ablation import Ablation, _for_all_seeds
from ns_diff3r.data import BatchSampler, CollectionConfig, GeneratedConfig, SamplerConfig, open_collection
from ns_diff3r.evaluation import ablation
from ns_diff3r.evaluation.ablation import ROWS, Figure, Ledger, Row, Setting, candidates, row_figures
from ns_diff3r.evaluation.ablation_curves import ImageCurve, after_seconds, after_steps, image_curves, mean_seconds
from ns_diff3r.training.inference import reconstruct
from ns_diff3r.training.step import TrainingModule
from ns_diff3r.training.weights import TrainedNetwork
from tests.training.doubles import make_config, make_network


def make_module() -> TrainingModule:
    return TrainingModule(make_network(), make_config(inner_steps=3))


PLAIN, FULL = ROWS[0], next(row for row in ROWS if row.name == "full")
DATA = CollectionConfig(
    image_size=(16, 16),
    generated=GeneratedConfig(num_scenes=3, num_evaluation_scenes=0, num_views=4, num_textures=16),
)


def after(figures: dict[int, list[Figure]]) -> list[Figure]:
    """Of the only number of steps."""
    ((_, found),) = figures.items()
    return found


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    return BatchSampler(SamplerConfig(), open_collection("generated", DATA))


def test_a_row_is_what_reconstruct_does_with_its_prior_and_rate(sampler):
    module = make_module().eval()
    setting = Setting(module.config.tto_rate_factor, 3)
    figures = after(row_figures(module, sampler, 0, FULL, setting))
    (item,) = sampler.evaluation_items(0)
    batch = sampler.load(item)
    found = reconstruct(module, batch.context, 3)
    image = module.draw(found.after, batch.targets.cameras).clamp(0, 1)[0]
    expected = -10 * (image - batch.targets.images[0]).square().mean().log10()
    assert [figure.image for figure in figures] == list(item.targets)
    assert figures[0].psnr == pytest.approx(float(expected.detach()), abs=1e-4)
    faster = after(row_figures(module, sampler, 0, FULL, replace(setting, rate=4 * setting.rate)))
    free = after(row_figures(module, sampler, 0, PLAIN, setting))
    held = after(row_figures(module, sampler, 0, Row("held", "plain", "uniform"), replace(setting, prior=1e6)))
    before = after(row_figures(module, sampler, 0, PLAIN, replace(setting, steps=0)))
    tinted = after(row_figures(module, sampler, 0, FULL, setting, corruption="tint"))
    assert len({run[0].psnr for run in (figures, faster, free, held, before, tinted)}) == 6


def test_figures_along_one_optimisation_are_those_of_shorter_ones(sampler):
    module = make_module().eval()
    setting = Setting(module.config.tto_rate_factor, 3)
    along = row_figures(module, sampler, 0, FULL, setting, (0, 2, 3))
    assert list(along) == [0, 2, 3]
    for steps, figures in along.items():
        alone = after(row_figures(module, sampler, 0, FULL, replace(setting, steps=steps)))
        assert [f.psnr for f in figures] == [f.psnr for f in alone]
    assert along[0][0].seconds == 0.0 < along[2][0].seconds < along[3][0].seconds


def test_candidates_cross_what_the_row_tunes():
    assert candidates(PLAIN, [4, 8], 50, [10], [1.0]) == [Setting(4, 50), Setting(8, 50)]
    assert candidates(ROWS[1], [4], 50, [10, 25], [1.0]) == [Setting(4, 10), Setting(4, 25), Setting(4, 50)]
    assert candidates(ROWS[2], [4], 50, [10], [0.1, 1.0]) == [Setting(4, 50, 0.1), Setting(4, 50, 1.0)]


def test_the_ledger_survives_a_line_that_was_cut_off(tmp_path):
    path, setting = tmp_path / "a.csv", Setting(16.0, 50)
    ledger = Ledger(path)
    for scene, values in (("x", (20.0, 22.0)), ("y", (30.0,))):
        ledger.add(ledger.key("test", PLAIN, 0, scene, setting), [Figure(i, 0.1, v, 0.5) for i, v in enumerate(values)])
    with path.open("a") as stream:
        stream.write("test,plain,0,z,1,16")
    again = Ledger(path)
    assert again.cells("test", PLAIN, setting) == {("x", 0): 21.0, ("y", 0): 30.0}
    assert again.known(again.key("test", PLAIN, 0, "x", setting)) == [20.0, 22.0]
    assert again.known(again.key("test", PLAIN, 0, "z", setting)) == []
    assert again.cells("test", PLAIN, Setting(8.0, 50)) == {}
    assert again.images("test", PLAIN, setting) == {("x", 0, "0"): 20.0, ("x", 0, "1"): 22.0, ("y", 0, "0"): 30.0}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not the CSV of an ablation"):
        Ledger(path)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command over three scenes a, b, c, whose figures are a formula; counts what it measures."""
    module, calls = make_module().eval(), []
    collection = open_collection("generated", DATA)
    collection.names = ("a", "b", "c")

    def figures(module, sampler, scene, row, setting, at, corruption):
        calls.append((row.name, scene, setting, corruption))
        best = {0: 8.0, 1: 16.0, 2: 16.0}[scene]  # what is tuned on "a" is 8, on the others it would be 16
        value = 20.0 + scene - abs(setting.rate - best) / 100 + (0.5 if row.prior == "learned" else 0.0)
        lost = 0.0 if corruption is None else (0.75 if row.prior == "learned" else 2.0)
        return {steps: [Figure(1, steps / 100, value - lost - (1.0 if steps == 0 else 0.0), 0.9)] for steps in at}

    network = TrainedNetwork(None, module, 0, Path("w"), "")  # type: ignore[arg-type]
    monkeypatch.setattr("ns_diff3r.training.weights.open_weights", lambda path: network)
    monkeypatch.setattr("ns_diff3r.data.open_collection", lambda *_: collection)
    monkeypatch.setattr(ablation, "row_figures", figures)
    weights = ("plain=p", "implicit=f0", "implicit=f1")
    options = {"rates": (8.0, 16.0), "curve_steps": (0,), "corruptions": ("tint",), "output": tmp_path / "a.csv"}
    return Ablation(tmp_path, weights, dev_scenes=("a",), **options), calls


def test_rows_are_tuned_on_development_scenes_and_measured_on_the_others(command, capsys):
    run, calls = command
    assert run.run() == 0
    with run.output.open() as stream:
        lines = list(csv.DictReader(stream))
    tested = [line for line in lines if line["phase"] == "test"]
    assert {line["scene"] for line in lines if line["phase"] == "tuning"} == {"a"}
    assert {line["scene"] for line in tested} == {"b", "c"}
    assert {line["rate"] for line in tested} == {"8"}
    assert {line["seed"] for line in tested if line["row"] == "full"} == {"0", "1"}
    text = capsys.readouterr().out
    assert "+0.500 to +0.500" in text
    assert "4 of 4" in text  # two scenes, two seeds: higher after optimisation than before
    assert "-1.250 to -1.250" in text  # what a tint costs, less than it costs the baseline
    assert "adjoint" not in text
    count = len(calls)
    assert run.run() == 0
    assert len(calls) == count  # everything is in the file


def test_tables_along_the_way(command, capsys):
    run, _ = command
    replace(run, curve_steps=(0, 200)).run()
    tables = capsys.readouterr().out.split("ablation", 1)[1]
    rows = [line.replace("│", " ").split() for line in tables.splitlines() if line.startswith("│ full  ")]
    assert rows[1] == ["full", "20.92", "21.92", "21.92", "50", "0"]
    assert rows[2] == ["full", "20.92", "21.92", "21.92"]
    assert "2.00 s (200)" in tables


def test_equal_steps_and_equal_seconds():
    fast = ImageCurve("x", 0, (0.0, 1.0, 2.0), (10.0, 20.0, 16.0))
    slow = ImageCurve("x", 0, (0.0, 2.0, 4.0), (10.0, 20.0, 16.0))
    other = ImageCurve("y", 0, (0.0, 1.0, 2.0), (30.0, 30.0, 30.0))
    assert after_steps([fast, slow, other]) == [20.0, 25.0, 23.0]  # scenes weigh alike
    assert mean_seconds([fast, slow, other]) == [0.0, 1.25, 2.5]
    assert after_seconds([slow], [0.0, 1.0, 3.0, 9.0]) == [10.0, 15.0, 18.0, 16.0]
    assert after_seconds([fast, other], [0.5]) == [22.5]


def test_curves_are_of_the_images_measured_at_all_steps(tmp_path):
    ledger, setting = Ledger(tmp_path / "c.csv"), Setting(8.0, 50)
    for steps, seconds, images in ((0, 0.0, (1, 2)), (50, 0.5, (1,))):
        key = ledger.key("test", PLAIN, 0, "x", replace(setting, steps=steps))
        ledger.add(key, [Figure(i, seconds, 20.0 + i + seconds, 0.9) for i in images])
    assert image_curves(ledger, PLAIN, setting, (0, 50)) == [ImageCurve("x", 0, (0.0, 0.5), (21.0, 21.5))]


def test_a_run_that_was_stopped_measures_only_what_is_missing(command):
    run, calls = command
    run.run()
    lines = run.output.read_text().splitlines(keepends=True)
    run.output.write_text("".join(lines[:-2]) + lines[-2][:9])
    count = len(calls)
    run.run()
    assert len(calls) == count + 2
    assert sorted(run.output.read_text().splitlines()) == sorted("".join(lines).splitlines())


def test_a_baseline_of_one_seed_stands_for_all():
    baseline, other = {("b", 0): 1.0, ("c", 0): 2.0}, dict.fromkeys([("b", 0), ("b", 1), ("c", 0), ("c", 1)], 5.0)
    assert _for_all_seeds(baseline, other) == {("b", 0): 1.0, ("b", 1): 1.0, ("c", 0): 2.0, ("c", 1): 2.0}
    assert _for_all_seeds(other, baseline) == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dev_scenes": ("a", "b", "c")}, "some, not all"),
        ({"dev_scenes": ("z",)}, "some, not all"),
        ({"weights": ("full=p",)}, "not KEY=PATH"),
        ({"baseline": "uniform"}, "no row 'uniform'"),
    ],
)
def test_options_that_make_no_sense(command, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(command[0], **changes).run()


def test_the_plain_row_needs_no_gradient(sampler):
    module = make_module().eval()
    assert torch.is_grad_enabled()
    row_figures(module, sampler, 1, PLAIN, Setting(16.0, 2))
    assert all(parameter.grad is None for parameter in module.parameters())
