# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r reconstruct` as a user calls it: posed scenes, bare photographs, and what it says when it cannot."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ns_diff3r import Gaussians
from ns_diff3r.cli.main import main
from ns_diff3r.data import load_scene
from tests.cli.test_fit_and_export import EXAMPLE, fit


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    before = torch.get_num_threads()
    assert fit(folder, "--no-evaluate") == 0
    torch.set_num_threads(before)
    return folder


def reconstruct(data: Path, output: Path, *options: object) -> int:
    arguments = ["--data", data, "--output", output, "--no-nerfstudio-run", *options]
    return main(["reconstruct", *map(str, arguments)])


def test_writes_a_splat_a_picture_and_figures(weights, tmp_path, capsys):
    assert reconstruct(EXAMPLE, tmp_path, "--weights", weights, "--num-context", 3, "--steps", 3) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    splat = Gaussians.load_ply(tmp_path / "scene.ply")
    assert splat.num_gaussians == results["num_gaussians"]
    assert len(results["context"]) == len(results["figures"]) == 3
    assert results["tto"]["steps"] == 3
    assert results["tto"]["loss_curve"][-1] < results["tto"]["loss_curve"][0]
    assert all(row["psnr_after"] > row["psnr_before"] for row in results["figures"])
    assert (tmp_path / "comparison.png").is_file()
    printed = capsys.readouterr().out
    assert results["weights"]["sha256"] in printed
    assert "3 of 12 photographs" in printed
    assert "PSNR before" in printed


def test_photographs_can_be_chosen_and_held_out(weights, tmp_path):
    assert reconstruct(EXAMPLE, tmp_path, "--weights", weights, "--context", 2, 5, "--hold-out", "--steps", 0) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    frames = load_scene(EXAMPLE).frames
    assert results["context"] == [frames[i].image_path.name for i in (2, 5)]
    assert [row["view"] for row in results["figures"]] == ["held out 1", "held out 9"]
    assert results["tto"] is None
    # What is used is not judged.
    assert reconstruct(EXAMPLE, tmp_path, "--weights", weights, "--context", 1, 5, "--hold-out", "--steps", 0) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["view"] for row in results["figures"]] == ["held out 9"]


def test_sparse_points_are_used_unless_forbidden(weights, tmp_path, capsys):
    counts, worst = [], []
    for option in ("--sparse-points", "--no-sparse-points"):
        options = ("--weights", weights, "--context", 0, 11, "--hold-out", "--steps", 0, option)
        assert reconstruct(EXAMPLE, tmp_path, *options) == 0
        results = json.loads((tmp_path / "results.json").read_text())
        counts.append(results["num_gaussians"])
        worst.append(min(row["psnr_before"] for row in results["figures"]))
        assert ("sparse points" in capsys.readouterr().out) == (option == "--sparse-points")
    assert counts[0] > counts[1]
    assert worst[0] > worst[1]


def test_the_network_may_see_smaller_photographs(weights, tmp_path):
    options = ("--weights", weights, "--num-context", 2, "--steps", 2, "--max-size", 64, "--no-sparse-points")
    counts = []
    for size in ((), ("--network-size", 32)):
        assert reconstruct(EXAMPLE, tmp_path, *options, *size) == 0
        results = json.loads((tmp_path / "results.json").read_text())
        counts.append(results["num_gaussians"])
        assert results["tto"]["loss_curve"][-1] < results["tto"]["loss_curve"][0]
    pixels = [(64, 48), (32, 24)]
    backdrop = counts[0] - 2 * pixels[0][0] * pixels[0][1]
    assert counts[1] == 2 * pixels[1][0] * pixels[1][1] + backdrop


def test_the_splat_is_in_the_world_of_the_poses(weights, tmp_path):
    """The same scene in a world ten times as large gives a splat ten times as large."""
    large = tmp_path / "large"
    shutil.copytree(EXAMPLE, large)
    content = json.loads((large / "transforms.json").read_text())
    del content["ply_file_path"]
    (large / "transforms.json").write_text(json.dumps(content))
    sizes = []
    for factor in (1, 10):
        for frame in content["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] *= factor
        (large / "transforms.json").write_text(json.dumps(content))
        assert reconstruct(large, tmp_path / "out", "--weights", weights, "--num-context", 2, "--steps", 2) == 0
        splat = Gaussians.load_ply(tmp_path / "out" / "scene.ply")
        sizes.append((splat.means - splat.means.mean(0)).norm())
    torch.testing.assert_close(sizes[1], 10 * sizes[0], rtol=1e-3, atol=0)


def photographs(tmp_path: Path, names: list[str]) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in names:
        shutil.copy(EXAMPLE / "images" / name, folder)
    return folder


@pytest.mark.slow
def test_bare_photographs_get_poses(weights, tmp_path, capsys):
    pytest.importorskip("pycolmap", reason="poses need the extra [colmap]")
    names = sorted(path.name for path in (EXAMPLE / "images").iterdir())
    folder = photographs(tmp_path, names)
    assert reconstruct(folder, tmp_path / "out", "--weights", weights, "--num-context", 2, "--steps", 2) == 0
    assert f"poses of {len(names)} of {len(names)} photographs" in capsys.readouterr().out
    found, truth = load_scene(tmp_path / "out" / "poses"), load_scene(EXAMPLE)
    focal = truth.frames[0].intrinsics.fx
    assert abs(found.frames[0].intrinsics.fx - focal) < 0.05 * focal
    # Poses up to a similarity: distances between cameras keep their ratios.
    distances = []
    for scene in (found, truth):
        centers = torch.tensor([frame.camera_to_world[:3, 3].tolist() for frame in scene.frames], dtype=torch.float64)
        between = torch.pdist(centers)
        distances.append(between / between.mean())
    assert (distances[0] - distances[1]).abs().max() < 0.05


def test_too_few_placed_photographs_are_named(weights, tmp_path, capsys):
    pytest.importorskip("pycolmap", reason="poses need the extra [colmap]")
    folder = tmp_path / "photographs"
    folder.mkdir()
    from PIL import Image

    for i, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 48), color).save(folder / f"{i}.png")
    assert reconstruct(folder, tmp_path / "out", "--weights", weights) == 1
    message = capsys.readouterr().err
    assert "only 0 of 3 photographs could be placed" in message
    assert "overlap" in message


def test_with_the_weights_that_come_with_the_package(tmp_path, capsys):
    assert reconstruct(EXAMPLE, tmp_path, "--num-context", 2, "--steps", 3, "--max-size", 48, "--hold-out") == 0
    assert "diff3r-wide.safetensors" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["weights"]["step"] > 0
    assert (tmp_path / "scene.ply").is_file()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.mkdir(), "no complete checkpoint"),
        (lambda path: path.write_bytes(b"PK not a checkpoint"), "not a complete checkpoint"),
        (lambda path: torch.save({"model": {}, "optimizer": {}}, path), "a checkpoint of another method"),
        (lambda path: torch.save({"pipeline": {}, "step": 3}, path), "settings.json"),
    ],
)
def test_unusable_weights(make, expected, tmp_path, capsys):
    path = tmp_path / "weights"
    make(path)
    assert reconstruct(EXAMPLE, tmp_path / "out", "--weights", path) == 1
    message = capsys.readouterr().err
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--num-context", 40), "--num-context 40"),
        (("--context", 0, 77), "no view 77"),
        (("--context", 3), "at least two"),
        (("--network-size", 4), "working_size must be at least 8"),
    ],
)
def test_impossible_choices(options, expected, weights, tmp_path, capsys):
    assert reconstruct(EXAMPLE, tmp_path / "out", "--weights", weights, *options) == 1
    assert expected in capsys.readouterr().err


def test_data_that_are_none(weights, tmp_path, capsys):
    assert reconstruct(tmp_path / "nothing", tmp_path / "out", "--weights", weights) == 1
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert reconstruct(tmp_path / "empty", tmp_path / "out", "--weights", weights) == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err
