# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r fit` and `export` as a user calls them, on the bundled example at a small size."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ns_diff3r import Gaussians
from ns_diff3r.cli.main import main
from ns_diff3r.training.run import read_metrics

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "room"
TINY = [
    *("--backbone.width", "8", "--backbone.matching-channels", "4", "--backbone.feature-channels", "8"),
    *("--backbone.num-depths", "8", "--uncertainty.hidden-dim", "4", "--collection.max-size", "32"),
    *("--training.num-steps", "6", "--training.tto.num-steps", "4", "--training.tto.pcg.max-iterations", "5"),
    *("--training.stages.pretrain-steps", "3", "--threads", "1"),
]


def fit(output: Path, *options: str, data: Path = EXAMPLE) -> int:
    return main(["fit", "--data", str(data), "--output", str(output), *TINY, *options])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    before = torch.get_num_threads()
    assert fit(folder) == 0
    torch.set_num_threads(before)
    return folder


def test_fit_trains_evaluates_and_writes_its_files(run_folder):
    assert sorted(path.name for path in run_folder.iterdir()) == [
        "checkpoints",
        "comparison.png",
        "evaluation.json",
        "metrics.jsonl",
        "settings.json",
    ]
    records = read_metrics(run_folder / "metrics.jsonl")
    assert [record["stage"] for record in records] == ["pretrain"] * 3 + ["bilevel"] * 3
    evaluation = json.loads((run_folder / "evaluation.json").read_text())
    assert evaluation["steps"] == 6
    assert evaluation["tto_steps"] == 4
    assert [row["image"] for row in evaluation["images"]] == [1, 9]
    assert evaluation["means"]["psnr_before"] > evaluation["means"]["psnr_constant"]
    width, height = Image.open(run_folder / "comparison.png").size
    assert (width, height) == (3 * 8 * 32 + 4, 8 * 24)  # one scene: photograph, before, after, enlarged eight times


def test_fit_says_what_it_does(tmp_path, capsys):
    assert fit(tmp_path / "run", "--training.num-steps", "2", "--training.stages.pretrain-steps", "1") == 0
    text = capsys.readouterr().out
    assert "1 scenes, 10 training images" in text
    assert "1 feed-forward, 1 through test-time optimisation" in text
    assert "MSE without LPIPS" in text or "LPIPS (VGG16 from" in text
    assert "mean of all images" in text


def test_the_same_command_continues_an_interrupted_run(run_folder, tmp_path, monkeypatch, capsys):
    from ns_diff3r.training.loop import TrainingLoop

    step = TrainingLoop._step

    def interrupted(loop: TrainingLoop, index: int):
        if index == 4:
            raise KeyboardInterrupt
        return step(loop, index)

    output = tmp_path / "run"
    monkeypatch.setattr(TrainingLoop, "_step", interrupted)
    assert fit(output, "--save-every", "2") == 130
    monkeypatch.undo()
    assert fit(output, "--save-every", "2") == 0
    assert "continuing after step 4" in capsys.readouterr().out
    losses = [[record["loss"] for record in read_metrics(f / "metrics.jsonl")] for f in (output, run_folder)]
    assert losses[0] == losses[1]


def test_a_folder_with_another_run_is_not_touched(run_folder, capsys):
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    assert fit(run_folder, "--training.seed", "7", "--sampler.num-targets", "2") == 1
    error = capsys.readouterr().err
    assert "holds a run with other settings (sampler.num_targets, training.seed)" in error
    assert fit(run_folder, "--no-resume") == 1
    assert "holds a run already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--collection.eval-scenes", "kitchen"], "there is no scene 'kitchen'"),
        (["--training.losses.lpips", "on", "--training.losses.vgg-weights", "nowhere.pth"], "nowhere.pth"),
        (["--lpips-metric", "on"], "LPIPS"),
        (["--save-every", "0"], "--save-every must be at least 1"),
        pytest.param(
            *(["--device", "cuda"], "--device cuda: torch finds no CUDA device"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_faults_of_the_input_are_one_line_and_leave_nothing(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NS_DIFF3R_TRACEBACK", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    assert fit(tmp_path / "run", *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("always::ns_diff3r.data.SceneWarning")
def test_what_is_left_out_of_the_data_is_one_line_each(tmp_path, capsys):
    shutil.copytree(EXAMPLE, tmp_path / "scenes" / "good")
    (tmp_path / "scenes" / "bad").mkdir()
    (tmp_path / "scenes" / "bad" / "transforms.json").write_text("{")
    assert fit(tmp_path / "run", "--no-evaluate", data=tmp_path / "scenes") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: scene left out: ")
    assert "bad" in lines[0]


def test_data_that_do_not_exist_are_named(tmp_path, capsys):
    assert fit(tmp_path / "run", data=tmp_path / "nowhere") == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_help_explains_every_setting():
    done = subprocess.run(
        [sys.executable, "-m", "ns_diff3r.cli.main", "fit", "-h"], capture_output=True, text=True, check=True
    )
    assert "--training.losses.auxiliary-weight" in done.stdout
    assert "_target" not in done.stdout


# --- export ---


def export(run: Path, output: Path, *options: str) -> int:
    return main(["export", "--run", str(run), "--output", str(output), *options])


def test_export_writes_the_reconstruction(run_folder, tmp_path, capsys):
    assert export(run_folder, tmp_path / "new" / "scene.ply", "--threads", "1") == 0
    text = capsys.readouterr().out
    assert "step-000000006.ckpt (6 steps); scene room, context views" in text
    assert "after 4 TTO steps" in text
    after = Gaussians.load(tmp_path / "new" / "scene.ply")
    assert export(run_folder, tmp_path / "before.ply", "--steps", "0", "--context", "2", "3", "4") == 0
    assert "context views 2, 3, 4" in capsys.readouterr().out
    before = Gaussians.load(tmp_path / "before.ply")
    assert before.num_gaussians * 2 == after.num_gaussians * 3

    from ns_diff3r.data import BatchSampler, open_collection
    from ns_diff3r.training.inference import reconstruct
    from ns_diff3r.training.weights import open_weights

    network = open_weights(run_folder)
    collection = open_collection(EXAMPLE, network.settings.collection)
    context = BatchSampler(network.settings.sampler, collection).evaluation(0)[0]
    torch.set_num_threads(1)
    expected = reconstruct(network.module, collection.views(0, context)).after
    assert all(torch.equal(a, b) for a, b in zip(after.leaves(), expected.leaves(), strict=True))


@pytest.mark.parametrize("suffix", [".compressed.ply", ".spz"])
def test_export_to_smaller_formats(suffix, run_folder, tmp_path):
    pytest.importorskip("gsply")
    assert export(run_folder, tmp_path / "scene.ply", "--steps", "0", "--threads", "1") == 0
    assert export(run_folder, tmp_path / f"small{suffix}", "--steps", "0", "--threads", "1") == 0
    exact, small = Gaussians.load(tmp_path / "scene.ply"), Gaussians.load(tmp_path / f"small{suffix}")
    assert small.num_gaussians == exact.num_gaussians
    sizes = [path.stat().st_size for path in (tmp_path / "scene.ply", tmp_path / f"small{suffix}")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "scene.obj"], "Gaussians are written as .ply, .compressed.ply, .spz"),
        (["--scene", "kitchen"], "there is no scene 'kitchen'; the scenes are room"),
        (["--context", "3"], "at least two context views"),
        (["--context", "3", "99"], "no view 99"),
        (["--steps", "-1"], "--steps must not be negative"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_faults_of_export_are_one_line(options, message, run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NS_DIFF3R_TRACEBACK", raising=False)
    assert main(["export", "--run", str(run_folder), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert export(tmp_path, tmp_path / "scene.ply") == 1
    assert "no complete checkpoint" in capsys.readouterr().err


def test_the_comparison_shows_the_photograph_first(run_folder):
    from ns_diff3r.data import load_scene

    pixels = np.asarray(Image.open(run_folder / "comparison.png"))[4::8, 4:256:8] / 255
    photograph = load_scene(EXAMPLE).views([1], max_size=32).images[0].numpy()
    assert np.abs(pixels - photograph).max() < 0.01
