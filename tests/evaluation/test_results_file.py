# SPDX-License-Identifier: Apache-2.0
"""The CSV of a protocol: on disk at once, whole lines only, nothing twice."""

import csv

import pytest

from ns_diff3r.evaluation.protocols.published import POSED, UNPOSED, published_rows
from ns_diff3r.evaluation.protocols.results_file import COLUMNS, ResultsFile, mean
from ns_diff3r.evaluation.protocols.tables import as_markdown, comparison, row_figures
from ns_diff3r.evaluation.protocols.views import ProtocolScene


def figures(*frames: int, start: float = 20.0) -> dict:
    return {
        frame: {"psnr_before": start + frame, "psnr_after": start + frame + 1, "ssim_before": 0.5, "ssim_after": 0.6}
        for frame in frames
    }


def test_lines_are_found_again(tmp_path):
    path = tmp_path / "figures.csv"
    first = ResultsFile(path)
    first.add("row, with a comma", "scene", figures(3, 5))
    assert path.read_text().count("\n") == 3
    again = ResultsFile(path)
    assert again.is_complete("row, with a comma", "scene", [3, 5])
    assert not again.is_complete("row, with a comma", "scene", [3, 5, 7])
    assert not again.is_complete("other", "scene", [3])
    lines = again.lines("row, with a comma", "scene", [5, 3])
    assert [line["image"] for line in lines] == ["5", "3"]
    assert mean(lines, "psnr_after") == pytest.approx(25.0)
    assert mean(lines, "lpips_before") is None
    assert mean([], "psnr_before") is None
    with path.open(newline="") as stream:
        assert tuple(next(csv.reader(stream))) == COLUMNS


def test_after_a_kill_half_a_scene_is_completed_and_nothing_comes_twice(tmp_path):
    path = tmp_path / "figures.csv"
    ResultsFile(path).add("a", "s", figures(1, 2, 3))
    text = path.read_text()
    path.write_text(text[:-9])  # within the last line
    results = ResultsFile(path)
    assert not results.is_complete("a", "s", [1, 2, 3])
    assert results.is_complete("a", "s", [1, 2])
    results.add("a", "s", figures(1, 2, 3))
    assert path.read_text() == text
    assert ResultsFile(path).is_complete("a", "s", [1, 2, 3])


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "figures.csv"
    path.write_text("scene,image,psnr\nroom,1,20\n")
    with pytest.raises(ValueError, match=r"figures\.csv: not the CSV of this command"):
        ResultsFile(path)
    assert path.read_text() == "scene,image,psnr\nroom,1,20\n"


def test_means_are_over_the_images_of_complete_scenes(tmp_path):
    results = ResultsFile(tmp_path / "figures.csv")
    results.add("a", "s", figures(1, 2, 3))
    results.add("a", "t", figures(8))
    results.add("a", "half", figures(1))
    scenes = [ProtocolScene(0, "s", (0,), (1, 2, 3)), ProtocolScene(1, "t", (0,), (8,))]
    found = row_figures(results, "a", [*scenes, ProtocolScene(2, "half", (0,), (1, 2))])
    assert (found.scenes, found.images) == (2, 4)
    assert found.figures == {"psnr": (pytest.approx(23.5), pytest.approx(24.5)), "ssim": (0.5, 0.6)}


def test_measured_rows_stand_beside_the_papers_and_the_others_are_not_run(tmp_path):
    results = ResultsFile(tmp_path / "figures.csv")
    results.add("diff3r", "s", figures(1))
    results.add("mine", "s", figures(2))
    scenes = [ProtocolScene(0, "s", (0,), (1,))], [ProtocolScene(0, "s", (0,), (2,))]
    measured = [row_figures(results, name, views) for name, views in zip(("diff3r", "mine"), scenes, strict=True)]
    rows = comparison(measured, published_rows(False, "re10k"))
    states = {row["row"].split(" ")[0]: row["measured"] for row in rows}
    assert states["pixelsplat"] == "not run: this network is not built here; its .ply files can be given"
    assert states["depthsplat"] == "not run: no weights given"
    assert states["diff3r"] == states["mine"] == "1 scene, 1 image"
    by_name = {row["row"]: row for row in rows}
    assert by_name["diff3r (Diff3R (d))"]["PSNR"] == "21.000 → 22.000"
    assert by_name["diff3r (Diff3R (d))"]["PSNR (paper)"] == "27.675 → 27.949"
    assert by_name["mine"]["PSNR (paper)"] == ""
    assert list(by_name)[-1] == "mine"
    assert len({tuple(row) for row in rows}) == 1
    assert as_markdown(rows).count("\n") == len(rows) + 2
    assert published_rows(False, "own") == ()
    failed = comparison([row_figures(results, "none", scenes[0])], ())
    assert failed[0]["measured"] == "not run: no scene could be measured"


def test_the_papers_numbers():
    """Spot checks of what was typed in: gains, and that keys come once."""
    gains = {row.key: round(row.figures["psnr"][1] - row.figures["psnr"][0], 3) for row in POSED["re10k"]}
    assert gains["diff3r"] == 0.274
    assert gains["mvsplat"] == -0.005
    for rows in (*POSED.values(), *UNPOSED.values()):
        assert len({row.key for row in rows}) == len(rows)
        assert all(0 < v < 1 for row in rows for metric in ("ssim", "lpips") for v in row.figures[metric])
    assert published_rows(True, "scannetpp-dslr")[2].figures["psnr"] == (23.78, 24.64)
