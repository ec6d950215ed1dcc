# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r reproduce`: both protocols from end to end, going on after a kill, foreign rows, bad input."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ns_diff3r.cli.main import main
from ns_diff3r.data import PointCloud, gaussians_from_points, load_scene, open_collection
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from ns_diff3r.evaluation.protocols import run as run_module
from tests.conftest import REPOSITORY, shared_path

ROOM = REPOSITORY / "examples" / "room"
SMALL = ["--image-size", "32", "32", "--tto-steps", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Three scenes with parts of the bundled one."""
    folder = tmp_path_factory.mktemp("scenes")
    content = json.loads((ROOM / "transforms.json").read_text())
    content["ply_file_path"] = str(ROOM / "sparse_pc.ply")
    for number in range(3):
        scene = folder / f"scene{number}"
        scene.mkdir()
        (scene / "images").symlink_to(ROOM / "images")
        frames = content["frames"][number : number + 8]
        (scene / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index.json"
    entry = {"context": [0, 7], "target": [2, 3, 4]}
    path.write_text(json.dumps({"scene0": entry, "scene1": {**entry, "target": [5]}, "scene2": None}))
    return path


def reproduce(protocol: str, *arguments: Any) -> int:
    return main(["reproduce", protocol, *map(str, arguments)])


def figures(output: Path) -> list[dict[str, str]]:
    with (output / "figures.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_posed_from_chunks_with_an_index(scenes, index, tmp_path, capsys):
    scenes_to_chunks(open_collection(scenes), tmp_path / "re10k", test=["scene0", "scene1"])
    output = tmp_path / "out"
    arguments = ["--data", tmp_path / "re10k", "--index", index, "--rows", "mine=untrained:compact", *SMALL]
    # The chunks' world is that of the room, a few units across.
    assert reproduce("posed", *arguments, "--near", 0.7, "--far", 9, "--output", output) == 0
    lines = figures(output)
    assert [(line["row"], line["scene"], line["image"]) for line in lines] == [
        ("mine", "scene0", "2"),
        ("mine", "scene0", "3"),
        ("mine", "scene0", "4"),
        ("mine", "scene1", "5"),
    ]
    for line in lines:
        assert 12 < float(line["psnr_before"]) < 35
        assert line["psnr_after"] != line["psnr_before"]
        assert line["tto_status"] == "completed"
        assert line["pose_status"] == line["lpips_before"] == ""
    table = (output / "table.md").read_text()
    assert "| depthsplat (DepthSplat (a)) | not run: no weights given |  | 27.665 → 27.694 |" in table
    assert "| mine | 2 scenes, 4 images |" in table
    assert "| near | 0.7 | given |" in table
    assert "LPIPS left out" in table
    assert json.loads((output / "views.json").read_text())["scene1"] == {"context": [0, 7], "target": [5]}
    results = json.loads((output / "results.json").read_text())
    mean = sum(float(line["psnr_after"]) for line in lines) / 4
    assert results["rows"][0]["figures"]["psnr"][1] == pytest.approx(mean, rel=1e-5)
    assert results["environment"]["torch"]
    assert Image.open(output / "pictures" / "scene0.png").size == (4 * 128 + 3 * 2, 2 * (128 + 14) + 3 * 2)
    assert "RealEstate10K, 6474 test scenes" in capsys.readouterr().out.replace("\n", " ")


def test_unposed_with_predicted_poses_and_foreign_gaussians(scenes, index, tmp_path, capsys):
    foreign = tmp_path / "splats"
    foreign.mkdir()
    options = ["--data", scenes, "--index", index, "--output", tmp_path / "out", "--target-poses.num-steps", 3]
    options += ["--image-size", 28, 28, "--tto-steps", 2, "--threads", 1, "--scenes", "scene0"]
    assert reproduce("unposed", *options) == 0  # no row yet: which views a foreign program is to look at
    views = json.loads((tmp_path / "out" / "views.json").read_text())
    assert views == {"scene0": {"context": [0, 1, 5, 7], "target": [2, 3, 4]}}
    write_foreign(foreign / "scene0.ply")
    rows = ["--rows", "da3=untrained:da3-small", "--ply", f"anysplat={foreign}"]
    assert reproduce("unposed", *options, *rows) == 0
    lines = figures(tmp_path / "out")
    assert [(line["row"], line["image"]) for line in lines] == [(row, i) for row in ("da3", "anysplat") for i in "234"]
    for line in lines:
        assert float(line["pose_loss_after"]) <= float(line["pose_loss_before"])
        assert line["pose_status"] in ("converged", "step limit", "diverged")
        assert (line["alignment_degrees"] == "") == (line["row"] == "anysplat")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| da3 (DA3) | 1 scene, 3 images |" in table
    assert "| anysplat (AnySplat) | 1 scene, 3 images |" in table
    assert "| diff3r (Diff3R) | not run: no weights given |" in table
    assert "| extra_views | even |" in table
    capsys.readouterr()


def write_foreign(path: Path) -> None:
    """Gaussians from the sparse points of the room."""
    points = load_scene(ROOM).points
    assert isinstance(points, PointCloud)
    gaussians_from_points(points, max_gaussians=300, opacity=0.7).save_ply(path)


def test_a_run_goes_on_where_it_was_killed(scenes, tmp_path, capsys, monkeypatch):
    """Killed within the second scene, the last line cut off; nothing is measured twice and no line comes twice."""
    output = tmp_path / "out"
    arguments = ["--data", scenes, "--rows", "mine=untrained:compact", *SMALL, "--output", output]
    measured: list[str] = []
    measure = run_module.measure

    def killed(row: Any, batch: Any, *rest: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(batch.name)
        return measure(row, batch, *rest)

    monkeypatch.setattr(run_module, "measure", killed)
    assert reproduce("posed", *arguments) == 130
    assert measured == ["scene0", "scene1"]
    path = output / "figures.csv"
    text = path.read_text()
    path.write_text(text[:-5])

    measured = []
    monkeypatch.setattr(
        run_module, "measure", lambda row, batch, *rest: measured.append(batch.name) or measure(row, batch, *rest)
    )
    assert reproduce("posed", *arguments) == 0
    assert measured == ["scene1", "scene2"]
    assert [line["scene"] for line in figures(output)] == ["scene0", "scene1", "scene2"]
    assert figures(output)[0]["psnr_after"] == text.splitlines()[1].split(",")[4]
    assert "1 of 3 scenes have been measured before" in capsys.readouterr().out

    measured = []
    assert reproduce("posed", *arguments, "--rows", "mine=untrained:compact", "again=untrained:compact") == 0
    assert measured == ["scene0", "scene1", "scene2"]
    lines = {row: [line for line in figures(output) if line["row"] == row] for row in ("mine", "again")}
    for first, second in zip(lines["mine"], lines["again"], strict=True):
        assert first["psnr_after"] == second["psnr_after"]
    picture = Image.open(output / "pictures" / "scene2.png")
    assert picture.size[1] == 3 * (128 + 14) + 5 * 2  # context, and both rows though measured in two runs


def test_figures_of_other_settings_or_rows_are_not_mixed(scenes, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--data", scenes, "--scenes", "scene0", *SMALL, "--output", output]
    assert reproduce("posed", *arguments, "--rows", "mine=untrained:compact") == 0
    assert reproduce("posed", *arguments, "--rows", "mine=untrained:compact", "--tto-rate-factor", 2) == 1
    error = capsys.readouterr().err
    assert "measured with other settings (protocol.tto_rate_factor)" in error
    assert reproduce("posed", *arguments, "--rows", "mine=untrained:compact", "--priors", "mine=0.5") == 1
    assert "holds figures of another row 'mine' (other prior)" in capsys.readouterr().err
    assert (
        reproduce(
            "posed", *arguments, "--rows", "mine=untrained:compact", "held=untrained:compact", "--priors", "held=0.5"
        )
        == 0
    )
    first, second = (next(line for line in figures(output) if line["row"] == row) for row in ("mine", "held"))
    assert first["psnr_before"] == second["psnr_before"]
    assert first["psnr_after"] != second["psnr_after"]


def test_a_scene_that_fails_is_named_and_tried_again(scenes, tmp_path, capsys, caplog):
    foreign = tmp_path / "splats"
    foreign.mkdir()
    for name in ("scene0", "scene2"):
        write_foreign(foreign / f"{name}.ply")
    output = tmp_path / "out"
    arguments = ["--data", scenes, *SMALL, "--output", output, "--ply", f"mine={foreign}", "--data-set", "own"]
    with caplog.at_level(logging.WARNING, "ns_diff3r"):
        assert reproduce("posed", *arguments, "--rows", "other=untrained:compact") == 0
    assert "mine, scene1: not measured" in caplog.text
    table = (output / "table.md").read_text()
    assert "| mine | 2 scenes, 2 images |" in table
    assert "scene1.ply: no such file" in table
    assert "the rows were not measured on the same scenes" in table
    assert "paper" not in table.splitlines()[2]
    write_foreign(foreign / "scene1.ply")
    assert reproduce("posed", *arguments) == 0
    assert "| mine | 3 scenes, 3 images |" in (output / "table.md").read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("protocol", "arguments", "message"),
    [
        ("posed", ["--rows", "compact"], "--rows: 'compact' is not NAME=VALUE"),
        ("posed", ["--rows", "a=untrained:big"], "there is no network 'big'; there are compact"),
        ("posed", ["--rows", "a=nowhere"], "nowhere: no such file or folder"),
        ("posed", ["--rows", "a=untrained:compact", "a=untrained:compact"], "--rows: 'a' is given twice"),
        ("posed", ["--rows", "a=untrained:compact", "--priors", "a=strong"], "must be learned, none, or a positive"),
        ("posed", ["--priors", "b=none"], "--priors: there is no network 'b'"),
        ("posed", ["--rows", "a=untrained:compact", "--ply", "a=."], "--ply: there is a row 'a'"),
        ("posed", ["--ply", "a=nowhere"], "row 'a': nowhere: no such folder"),
        ("posed", ["--ply", "a=."], "holds none of the 3 scenes; expected are files like scene0.ply"),
        ("posed", ["--scenes", "x"], "there is no scene 'x' in the data"),
        ("posed", ["--index", "INDEX", "--whole-index"], "names scenes that the data lack: 'lost' (1 of 2)"),
        ("posed", ["--preset", "gsplat-9", "--rows", "a=untrained:compact"], "unknown preset 'gsplat-9'"),
        ("unposed", ["--rows", "a=untrained:compact"], "CompactConfig takes given poses, and this protocol gives none"),
    ],
)
def test_bad_input_is_one_clear_line(scenes, protocol, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NS_DIFF3R_TRACEBACK", raising=False)
    entry = {"context": [0, 7], "target": [2]}
    (tmp_path / "index.json").write_text(json.dumps({"scene0": entry, "lost": entry}))
    arguments = [tmp_path / "index.json" if argument == "INDEX" else argument for argument in arguments]
    assert reproduce(protocol, "--data", scenes, *SMALL, "--output", tmp_path / "out", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["redkitchen"])
def test_a_real_scene_goes_through_both_protocols(name, tmp_path, capsys):
    if not shared_path("data", "dev", name).is_dir():
        pytest.skip("real scenes are not at hand")
    data = ["--data", shared_path("data", "dev", name), "--threads", 1, "--pictures", 1, "--tto-steps", 3]
    posed = ["--rows", "compact=untrained:compact", "--image-size", 64, 64, "--output", tmp_path / "posed"]
    assert reproduce("posed", *data, *posed) == 0
    unposed = ["--rows", "da3=untrained:da3-small", "--image-size", 28, 28, "--target-poses.num-steps", 5]
    assert reproduce("unposed", *data, *unposed, "--output", tmp_path / "unposed") == 0
    for protocol, rows in (("posed", "compact"), ("unposed", "da3")):
        lines = figures(tmp_path / protocol)
        assert len(lines) == 1
        assert {line["row"] for line in lines} == {rows}
    capsys.readouterr()
