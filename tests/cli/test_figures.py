# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r figures` and `prior-analysis` on generated scenes and networks small enough for tests."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ns_diff3r.cli import figure_files
from ns_diff3r.cli.figures import Figures
from ns_diff3r.cli.main import main
from ns_diff3r.cli.prior_analysis import PriorAnalysis
from ns_diff3r.cli.whole_files import whole_file
from ns_diff3r.data import BatchSampler, CollectionConfig, GeneratedConfig, SamplerConfig, open_collection
from ns_diff3r.evaluation.curves import optimisation_curves
from ns_diff3r.evaluation.prior_analysis import MEASURES
from ns_diff3r.splats import GROUPS
from ns_diff3r.training.step import TrainingModule
from ns_diff3r.training.weights import TrainedNetwork
from tests.training.doubles import make_config, make_network

DATA = CollectionConfig(
    image_size=(16, 16),
    generated=GeneratedConfig(num_scenes=1, num_evaluation_scenes=2, num_views=4, num_textures=16),
)
SCENES = ("generated-000001", "generated-000002")


def network_of(path: object) -> TrainedNetwork:
    """ "0", "1", … are seeds; "constant": one λ everywhere."""
    name = Path(str(path)).name
    network = make_network(0 if name == "constant" else int(name))
    if name == "constant":
        torch.nn.init.zeros_(network.uncertainty_head.linear.weight)
        torch.nn.init.zeros_(network.uncertainty_head.linear.bias)
    module = TrainingModule(network, make_config(inner_steps=2)).eval()
    return TrainedNetwork(None, module, 7, Path(name), f"sha of {name}")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    monkeypatch.setattr("ns_diff3r.training.weights.open_weights", network_of)


@pytest.fixture
def figures(tmp_path) -> Figures:
    return Figures(
        Path("generated"), ("full=0", "other=1"), tmp_path / "out", curve_steps=3, collection=DATA, min_height=32
    )


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_scene_gets_its_pictures_and_curves(figures, capsys):
    assert figures.run() == 0
    made = {f"{part}/{name}" for part in ("strips", "maps") for name in (f"{scene}.png" for scene in SCENES)}
    made |= {f"curves/{name}.{kind}" for name in (*SCENES, "mean") for kind in ("csv", "svg")}
    assert set(files(figures.output)) == {*made, "figures.json"}
    strip, maps = (Image.open(figures.output / part / f"{SCENES[0]}.png") for part in ("strips", "maps"))
    assert strip.width == 5 * 32 + 6 * 4  # two context views, before, after, photograph
    assert maps.width == 7 * 32 + 8 * 4  # photograph, prediction, five groups: harmonics of degree 0 have no shN
    text = capsys.readouterr().out
    assert f"scene 2 of 2, {SCENES[1]}: strips, maps, curves" in text
    assert "6 of 6 files" in text


def test_curves_are_means_over_the_images_of_a_scene_and_then_over_scenes(figures):
    figures = replace(figures, parts=("curves",), priors=("none",))
    figures.run()
    sampler = BatchSampler(SamplerConfig(), open_collection("generated", DATA))
    lasts = []
    for scene, name in zip((1, 2), SCENES, strict=True):
        (item,) = sampler.evaluation_items(scene)
        curve = optimisation_curves(network_of("1").module, sampler.load(item), ("none",), 3)["none"]
        with (figures.output / "curves" / f"{name}.csv").open() as stream:
            rows = [row for row in csv.DictReader(stream) if row["network"] == "other"]
        assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
        assert float(rows[-1]["target_psnr"]) == pytest.approx(curve.last.target, abs=1e-4)
        lasts.append(curve.last.target)
    with (figures.output / "curves" / "mean.csv").open() as stream:
        mean = [row for row in csv.DictReader(stream) if row["network"] == "other"]
    assert float(mean[-1]["target_psnr"]) == pytest.approx(sum(lasts) / 2, abs=1e-4)
    path = figures.output / "curves" / f"{SCENES[0]}.csv"
    path.write_text(path.read_text().replace(",none,1,", ",none,9,"))  # of more images: scenes weigh alike all the same
    figures.run()
    with (figures.output / "curves" / "mean.csv").open() as stream:
        assert [row for row in csv.DictReader(stream) if row["network"] == "other"] == mean


def test_what_is_there_is_not_made_again(figures, capsys):
    figures.run()
    before = files(figures.output)
    gone = figures.output / "strips" / f"{SCENES[1]}.png"
    gone.unlink()
    capsys.readouterr()
    figures.run()
    after = files(figures.output)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {f"strips/{SCENES[1]}.png", "curves/mean.csv", "curves/mean.svg", "figures.json"}
    assert f"{SCENES[0]}: everything, there already" in capsys.readouterr().out


def test_a_folder_of_other_settings_is_not_mixed(figures):
    figures.run()
    with pytest.raises(ValueError, match=r"other settings \(curve_steps\): give another --output"):
        replace(figures, curve_steps=4).run()
    with pytest.raises(ValueError, match=r"other settings \(weights\)"):
        replace(figures, weights=("full=2", "other=1")).run()
    assert replace(figures, parts=("strips",), threads=torch.get_num_threads()).run() == 0


def test_a_kill_leaves_nothing_half_done(figures, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(figure_files, "write_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        figures.run()
    assert not list((figures.output / "curves").glob("*.csv"))
    assert not [name for name in files(figures.output) if ".tmp" in name]
    monkeypatch.undo()
    monkeypatch.setattr("ns_diff3r.training.weights.open_weights", network_of)
    assert figures.run() == 0
    assert (figures.output / "curves" / f"{SCENES[0]}.csv").is_file()


def test_a_scene_that_fails_is_named_and_the_others_are_made(figures, monkeypatch, caplog):
    load = BatchSampler.load

    def fails(self, item):
        if item.scene == 1:
            raise ValueError("broken photograph")
        return load(self, item)

    monkeypatch.setattr(BatchSampler, "load", fails)
    with caplog.at_level(logging.WARNING, "ns_diff3r"):
        assert replace(figures, parts=("strips",)).run() == 0
    assert f"scene {SCENES[0]}: no strips: broken photograph" in caplog.text
    assert set(files(figures.output)) == {f"strips/{SCENES[1]}.png", "figures.json"}
    with pytest.raises(ValueError, match="no scene could be shown"):
        replace(figures, scenes=SCENES[:1], parts=("maps",)).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ("full",)}, "'full' is not NAME=PATH"),
        ({"weights": ("a=0", "a=1")}, "'a=1' is not NAME=PATH with a name of its own"),
        ({"priors": ("some",)}, "a prior is"),
        ({"images": 0}, "at least 1"),
        ({"rate_factor": -1.0}, "--rate-factor must be positive"),
        ({"scenes": ("nowhere",)}, "there is no 'nowhere'"),
    ],
)
def test_options_that_make_no_sense(figures, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(figures, **changes).run()
    assert not figures.output.exists()


def test_a_file_is_there_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.csv"

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".csv"
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert list(path.parent.iterdir()) == []
    with whole_file(path) as temporary:
        temporary.write_text("whole")
    assert [item.name for item in path.parent.iterdir()] == ["a.csv"]


# --- prior-analysis ---


@pytest.fixture
def analysis(tmp_path) -> PriorAnalysis:
    return PriorAnalysis(Path("generated"), (Path("0"),), tmp_path / "lambda.csv", collection=DATA, random_heads=2)


def test_the_analysis_says_what_it_found(analysis, capsys):
    assert analysis.run() == 0
    with analysis.output.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(SCENES) * len(GROUPS) * len(MEASURES)
    assert {row["scene"] for row in rows} == set(SCENES)
    stored = json.loads(analysis.output.with_suffix(".json").read_text())
    table = {(row["group"], row["λ with"]): row for row in stored["correlations"]}
    views = MEASURES[0]
    moved = next(measure for measure in MEASURES if measure.key == "moved")
    found = [float(row["correlation"]) for row in rows if (row["group"], row["measure"]) == ("means", moved.key)]
    assert table["means", moved.title]["correlation"] == pytest.approx(sum(found) / 2, abs=1e-4)
    assert table["means", moved.title]["claimed"] == "−"
    assert table["means", moved.title]["scenes"] == 2
    assert table["shN", views.title]["verdict"].startswith("undefined: this network has none")
    assert stored["thresholds"] == {"min_weight": 0.05, "min_share": 0.1}
    text = capsys.readouterr().out
    assert "λ (geometric mean)" in text
    assert "0, scene 2 of 2" in text


def test_several_networks_are_seeds(analysis):
    replace(analysis, weights=(Path("0"), Path("1"))).run()
    with analysis.output.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["weights"] for row in rows[:: len(rows) // 2]] == ["0", "1"]
    stored = json.loads(analysis.output.with_suffix(".json").read_text())["correlations"]
    title = next(measure.title for measure in MEASURES if measure.key == "moved")
    row = next(row for row in stored if (row["group"], row["λ with"]) == ("means", title))
    first, second = map(float, row["of each network"].split())
    assert row["correlation"] == pytest.approx((first + second) / 2, abs=0.01)
    assert first != second


def test_one_strength_everywhere_is_said_and_written_without_nan(analysis, capsys):
    replace(analysis, weights=(Path("constant"),)).run()
    text = analysis.output.read_text() + analysis.output.with_suffix(".json").read_text()
    assert "nan" not in text.lower()
    assert "λ is the same everywhere" in text
    assert "no correlation is defined" in capsys.readouterr().out


def test_a_scene_that_cannot_be_analysed_is_left_out(analysis, caplog):
    with caplog.at_level(logging.WARNING, "ns_diff3r"), pytest.raises(ValueError, match="no scene could be analysed"):
        replace(analysis, tto_steps=0).run()
    assert f"scene {SCENES[0]}" in caplog.text


def test_the_commands_have_help(capsys):
    for command in ("figures", "prior-analysis"):
        with pytest.raises(SystemExit) as stop:
            main([command, "-h"])
        assert stop.value.code == 0
        assert "--weights" in capsys.readouterr().out
