# SPDX-License-Identifier: Apache-2.0
"""The README's library example, verbatim, and the files that it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ns_diff3r.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def library_example() -> str:
    """The first Python block."""
    block = re.search(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert block is not None
    return block[1]


def test_library_example_runs_verbatim(tmp_path):
    code = library_example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    script = tmp_path / "example.py"  # elsewhere, so that the installed package is imported and not the source tree
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    loss, gradient, stationarity, iterations = map(float, done.stdout.split())
    assert 0 < loss < 0.2
    assert gradient > 0
    assert 0 < stationarity < 1.5
    assert 1 <= iterations <= 200


def test_library_example_optimises_two_scenes_of_different_size():
    names: dict = {}
    code = library_example().replace('"examples/room"', repr(str(REPOSITORY / "examples" / "room")))
    exec(compile(code, "README.md", "exec"), names)
    sizes = {views.images.shape[1:3] for views in names["context"]}
    assert len(names["fitted"]) == 2
    assert len(sizes) == 2
    assert len({gaussians.num_gaussians for gaussians in names["fitted"]}) == 2
    assert all(leaf.grad is not None for gaussians in names["init"] for leaf in gaussians.leaves())
    for report in names["solution"].scenes:
        assert report.image_loss_curve[-1] < report.image_loss_curve[0]


def test_files_and_scripts_that_the_readme_names_exist():
    links = re.findall(r"\]\(((?!https?:|#)[^)#]+)", README)
    commands = re.findall(r"(?:scripts|examples|docs|\.ci)/[\w./-]*\w", README)
    assert len(links) >= 4
    missing = [name for name in {*links, *commands} if not (REPOSITORY / name).exists()]
    assert not missing


def test_commands_that_the_readme_names_exist(capsys):
    named = set(re.findall(r"ns-diff3r (\w+)", README))
    assert {"optimize", "gradcheck", "benchmark", "doctor"} <= named
    for command in sorted(named):
        with pytest.raises(SystemExit) as exit_:
            main([command, "-h"])
        assert exit_.value.code == 0, command
        assert f"ns-diff3r {command}" in capsys.readouterr().out
